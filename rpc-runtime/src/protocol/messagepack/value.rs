//! [`ValueDeserializer`]: the position of the next value and its limits.

use super::error::{Cause, Error, fail};
use super::input::Input;

/// Bytes of a value that count as one level of nesting, and the maximum levels of one value.
const BYTES_PER_LEVEL: usize = 128;
const MOST_LEVELS: usize = 32;

/// Levels of nesting after which the charge of values of unknown type grows by one copy.
const LEVELS_PER_COPY: u16 = 8;

/// Reads the next value.
///
/// Passed by value, so that its limits stay in registers.
pub(crate) struct ValueDeserializer<'a, 'de> {
    pub(super) input: &'a mut Input<'de>,
    /// Remaining levels of nesting.
    pub(super) depth: u16,
    /// The size of the value's destination, which is already charged. A larger value is allocated
    /// elsewhere, like the content of a `Box`, and is charged the difference.
    pub(super) paid: usize,
    /// The likely next field name.
    pub(super) field: Option<&'static str>,
}

impl<'a, 'de> ValueDeserializer<'a, 'de> {
    #[inline]
    pub(super) fn outermost(input: &'a mut Input<'de>) -> Self {
        let depth = input.depth;
        Self { input, depth, paid: 0, field: None }
    }

    /// One level deeper, in a value of `size` bytes.
    ///
    /// The size is a compile-time constant.
    #[inline(always)]
    pub(super) fn nested(self, size: usize) -> Result<Self, Error> {
        if size > self.paid {
            self.input.charge(size.saturating_sub(self.paid))?;
        }
        let levels = (size / BYTES_PER_LEVEL).clamp(1, MOST_LEVELS) as u16;
        match self.depth.checked_sub(levels) {
            Some(depth) => Ok(Self { depth, paid: self.paid.max(size), ..self }),
            None => fail(Cause::TooDeep(self.input.depth)),
        }
    }

    /// How many copies of the next value are charged while its type is found out. Charging all
    /// possible copies would refuse legitimate values. Memory stays within [`LEVELS_PER_COPY`]
    /// times the limit.
    pub(super) fn copies(&self) -> usize {
        usize::from(1 + self.input.depth.saturating_sub(self.depth) / LEVELS_PER_COPY)
    }
}
