//! [`Shape`]: the form of a type on the wire, determined by tracing its serde implementations.
//!
//! Named maps can be read by other versions of a type, compact arrays only by the same version. Two
//! ends can use compact arrays for a method if the shapes of its arguments and result are equal,
//! which they compare by a [fingerprint](Shape::fingerprint). A type that cannot be traced
//! completely has no shape and is written as named maps.
//!
//! [`trace`] deserializes a type from dummy values in several passes until all parts were seen, and
//! notes the requested types. [`record`] notes what serializing the result writes, since compact
//! arrays depend on the positions of the written values.

mod dummy;
mod record;
mod trace;
mod tree;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::tree::STREAM;
pub(crate) use self::tree::Shape;

/// Maximum length of the text of a shape, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// The shape of `T`; `None` if it cannot be traced completely.
pub(crate) fn of<T: Serialize + DeserializeOwned>() -> Option<Shape> {
    let shape = trace::trace::<T>()?;
    (shape.to_string().len() <= MAX_TEXT).then_some(shape)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
