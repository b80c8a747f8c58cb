//! The MessagePack decoder for all bytes from peers.
//!
//! It decodes a slice into a type's own serde implementation, in the named and the compact form. It
//! accepts and refuses the same bytes as rmp-serde, which encodes the values. Unlike rmp-serde it
//! bounds nesting and memory, see [`DecodeLimits`].

mod access;
mod content;
mod deserializer;
mod error;
mod extension;
mod input;
mod limits;
mod marker;
#[cfg(test)]
mod tests;
mod value;

use serde::de::DeserializeOwned;

use self::error::Error;
use self::input::Input;
use self::value::ValueDeserializer;
use crate::error::RpcError;
use crate::status::Status;

pub use self::limits::DecodeLimits;

/// A value, and the memory that was charged for it.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Counted<T> {
    pub(crate) value: T,
    /// Bytes, as [`DecodeLimits::memory`] counts them. For accounting: compare it with the length
    /// of the frame, which holds what the value did not copy.
    pub(crate) charged: usize,
}

/// Why a value was not decoded.
#[derive(Debug)]
#[doc(hidden)]
pub struct NotDecoded {
    pub(crate) error: RpcError,
    /// It takes more memory than the limit.
    pub(crate) over_memory: bool,
}

impl From<NotDecoded> for RpcError {
    fn from(not_decoded: NotDecoded) -> Self {
        not_decoded.error
    }
}

/// Decodes MessagePack, in the named or the compact form, from untrusted bytes.
///
/// Bytes after the value are ignored.
///
/// # Errors
///
/// The bytes are not a value of the type, or the value exceeds a limit. [`RpcError::is_decode`] is
/// true.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limits: DecodeLimits) -> Result<T, RpcError> {
    decode_counted(bytes, limits).map(|counted| counted.value)
}

/// As [`decode`], and returns the memory that was charged.
#[inline]
pub(crate) fn decode_counted<T: DeserializeOwned>(
    bytes: &[u8],
    limits: DecodeLimits,
) -> Result<Counted<T>, RpcError> {
    Ok(decode_with(bytes, limits, |deserializer| T::deserialize(deserializer))?)
}

/// Runs `read` with the deserializer of the value. For values that are not read into one type.
#[inline]
pub(crate) fn decode_with<'de, T>(
    bytes: &'de [u8],
    limits: DecodeLimits,
    read: impl FnOnce(ValueDeserializer<'_, 'de>) -> Result<T, Error>,
) -> Result<Counted<T>, NotDecoded> {
    let mut input = Input::new(bytes, limits);
    let error = match read(ValueDeserializer::outermost(&mut input)) {
        Ok(value) if !input.is_exceeded() => {
            return Ok(Counted { value, charged: input.charged() });
        }
        Ok(_) => input.exceed::<()>().err(),
        Err(error) => Some(error),
    };
    Err(failed(error, input.is_exceeded()))
}

#[cold]
fn failed(error: Option<Error>, over_memory: bool) -> NotDecoded {
    let why = error.map(|error| error.to_string()).unwrap_or_default();
    NotDecoded { error: RpcError::new(Status::Decode, why), over_memory }
}
