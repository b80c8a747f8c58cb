//! Files and folders that no other user may have made or may change.
//!
//! The rules are those of ssh for its keys. A file is opened without following a link and without
//! waiting (as opening a named pipe would), and then what was opened is checked: a regular file that
//! belongs to this user or to root and that no one else may write. Checking the path first would leave
//! time to exchange what it names. A folder is checked with its parents: whoever may write a parent
//! may exchange the folder, unless the parent is sticky.

use std::error::Error as StdError;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(not(unix), path = "elsewhere.rs")]
mod system;

pub(crate) use self::system::{
    check_file, check_parents, check_single, is_own, make_folder, restrict, user,
};

/// Who may use the files besides root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The user of this process.
    Owner,
    /// The members of the group to which the folder belongs.
    Group,
}

/// Opens a file to read it.
pub(crate) fn read(path: &Path, access: Access) -> io::Result<File> {
    let file = system::open(OpenOptions::new().read(true), path, access)?;
    check_file(&file.metadata()?, access)?;
    Ok(file)
}

/// Opens a file to read and write it. Makes it if it is missing and `create` is set. Takes the
/// permissions of other users away from one that this user has made.
pub(crate) fn write(path: &Path, create: bool, access: Access) -> io::Result<File> {
    let open = || system::open(OpenOptions::new().read(true).write(true), path, access);
    let file = match open() {
        Err(error) if create && error.kind() == ErrorKind::NotFound => {
            match create_new(path, access) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => open()?,
                created => return created,
            }
        }
        opened => opened?,
    };
    system::restrict_file(&file, access)?;
    let metadata = file.metadata()?;
    check_file(&metadata, access)?;
    check_single(&metadata)?;
    Ok(file)
}

/// Makes a file that must not exist, to read and write it.
pub(crate) fn create_new(path: &Path, access: Access) -> io::Result<File> {
    let file =
        system::open(OpenOptions::new().read(true).write(true).create_new(true), path, access)?;
    system::share_file(&file, path, access)?;
    Ok(file)
}

/// Makes a folder, with what is above it, if it is missing, and checks it.
pub(crate) fn create_folder(path: &Path, access: Access) -> io::Result<()> {
    make_folder(path, access)?;
    check_folder(path, access)
}

/// Checks that nobody else may lead this path somewhere else. It need not exist.
pub(crate) fn check_way(path: &Path) -> io::Result<()> {
    system::check_links(path)?;
    match path.ancestors().skip(1).find(|above| above.exists()) {
        // As the parent of any name in it.
        Some(above) => check_parents(&fs::canonicalize(above)?.join("any")),
        None => Ok(()),
    }
}

/// Checks a folder without its parents.
pub(crate) fn check_folder(path: &Path, access: Access) -> io::Result<()> {
    system::check_folder(path, &path.symlink_metadata()?, access)
}

/// What the user can do about an error of this module.
pub(crate) fn hint(error: &io::Error) -> Option<&str> {
    Some(error.get_ref()?.downcast_ref::<NotPrivate>()?.hint.as_str())
}

/// Somebody else may have made it, or may change it.
#[derive(Debug)]
struct NotPrivate {
    what: String,
    hint: String,
}

impl NotPrivate {
    fn error(what: impl Into<String>, hint: impl Into<String>) -> io::Error {
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

fn not_regular() -> io::Error {
    NotPrivate::error("it is not a regular file", "move it away")
}
