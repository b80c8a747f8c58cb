use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

/// Another user may have created the file or folder, or may change it.
#[derive(Debug)]
pub(super) struct NotPrivate {
    what: String,
    pub(super) hint: String,
}

impl NotPrivate {
    pub(super) fn error(what: impl Into<String>, hint: impl Into<String>) -> io::Error {
        let refused = Self { what: what.into(), hint: hint.into() };
        io::Error::new(ErrorKind::PermissionDenied, refused)
    }
}

impl fmt::Display for NotPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for NotPrivate {}

pub(super) fn not_regular() -> io::Error {
    NotPrivate::error("it is not a regular file", "move it away")
}
