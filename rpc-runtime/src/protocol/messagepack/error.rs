//! [`Error`]: the decoding error.

use std::fmt::{self, Write as _};

use serde::de;

/// Maximum length of a message, in bytes. serde's messages quote what the peer sent.
const MAX_MESSAGE: usize = 1024;

/// Why decoding failed.
///
/// One pointer, so that results of small values stay small.
pub(crate) struct Error(Box<Cause>);

/// The causes of an error.
#[derive(Debug)]
pub(super) enum Cause {
    /// The bytes end within the value.
    CutOff,
    /// A sequence or a map announces more elements than the remaining bytes can hold.
    Claims(u32),
    /// A sequence or a map has this many more elements than the type accepts.
    TooMany(u32),
    /// A string is not UTF-8.
    NoUtf8,
    /// This byte does not begin a MessagePack value.
    NoMarker(u8),
    /// The map of an enum's variant has this many entries in place of one.
    VariantOf(u32),
    /// An `i128` or `u128` has this many bytes in place of 16.
    WideInteger(usize),
    /// More levels of nesting than this.
    TooDeep(u16),
    /// More memory than this many bytes.
    TooMuchMemory(usize),
    /// A message of serde or of a type's implementation.
    Message(Box<str>),
}

/// The error with this cause. A separate function, so that the code of readers stays small.
#[cold]
#[inline(never)]
pub(super) fn fail<T>(cause: Cause) -> Result<T, Error> {
    Err(Error(Box::new(cause)))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Cause::CutOff => f.write_str("the bytes end within the value"),
            Cause::Claims(count) => {
                write!(f, "{count} elements are announced, more than the bytes can hold")
            }
            Cause::TooMany(left) => write!(f, "invalid length: {left} elements too many"),
            Cause::NoUtf8 => f.write_str("a string is not UTF-8"),
            Cause::NoMarker(byte) => write!(f, "the byte {byte:#04x} begins no value"),
            Cause::VariantOf(entries) => {
                write!(f, "an enum variant is a map of one entry, not of {entries}")
            }
            Cause::WideInteger(bytes) => {
                write!(f, "a 128-bit integer has 16 bytes, not {bytes}")
            }
            Cause::TooDeep(limit) => {
                write!(f, "the value is nested deeper than the limit of {limit} levels")
            }
            Cause::TooMuchMemory(limit) => {
                write!(f, "the value takes more memory than the limit of {limit} bytes")
            }
            Cause::Message(message) => f.write_str(message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Self {
        let mut text = Bounded(String::new());
        // It fails when the text is full.
        let _ = write!(text, "{message}");
        Self(Box::new(Cause::Message(text.0.into())))
    }
}

/// A text that is cut at [`MAX_MESSAGE`] and then ends with "…".
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = MAX_MESSAGE.saturating_sub(self.0.len());
        if part.len() <= room {
            self.0.push_str(part);
            return Ok(());
        }
        let end = (0..=room).rfind(|end| part.is_char_boundary(*end)).unwrap_or_default();
        self.0.push_str(part.get(..end).unwrap_or_default());
        self.0.push('…');
        Err(fmt::Error)
    }
}
