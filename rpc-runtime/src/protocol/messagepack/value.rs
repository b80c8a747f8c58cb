//! [`ValueDeserializer`]: the position of the next value and its limits.

use serde::de::Visitor;

use super::access::{Bytes, Elements, Entries};
use super::error::{Cause, Error, fail};
use super::input::{Input, visit_string};
use super::marker as m;

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
    fn copies(&self) -> usize {
        usize::from(1 + self.input.depth.saturating_sub(self.depth) / LEVELS_PER_COPY)
    }

    /// A sequence of `count` elements, which are charged `times` their size. Without `PAY` nothing
    /// is allocated for them, so a count that the bytes cannot hold is harmless: the bytes end
    /// first.
    #[inline]
    pub(super) fn elements<V: Visitor<'de>, const PAY: bool>(
        self,
        count: u32,
        times: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if PAY && count as usize > self.input.rest.len() {
            return fail(Cause::Claims(count));
        }
        let Self { input, depth, .. } = self.nested(size_of::<V::Value>())?;
        let mut elements = Elements::<PAY>::new(input, depth, count, times);
        let value = visitor.visit_seq(&mut elements)?;
        match elements.left() {
            0 => Ok(value),
            left => fail(Cause::TooMany(left)),
        }
    }

    /// As [`elements`](Self::elements), for a map, or a struct with these fields.
    #[inline]
    pub(super) fn entries<V: Visitor<'de>, const PAY: bool>(
        self,
        count: u32,
        times: usize,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if PAY && count as usize > self.input.rest.len() / 2 {
            return fail(Cause::Claims(count));
        }
        let Self { input, depth, .. } = self.nested(size_of::<V::Value>())?;
        let mut entries = Entries::<PAY>::new(input, depth, count, times, fields);
        let value = visitor.visit_map(&mut entries)?;
        match entries.left() {
            0 => Ok(value),
            left => fail(Cause::TooMany(left)),
        }
    }

    /// A struct or a tuple. Its parts lie within it and are charged with it.
    #[inline(always)]
    pub(super) fn parts<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match *self.input.rest {
            [marker @ m::FIXARRAY..=m::FIXARRAY_LAST, ref rest @ ..] => {
                self.input.rest = rest;
                self.elements::<V, false>((marker & m::FIX_LENGTH).into(), 0, visitor)
            }
            [marker @ m::FIXMAP..=m::FIXMAP_LAST, ref rest @ ..] => {
                self.input.rest = rest;
                self.entries::<V, false>((marker & m::FIX_LENGTH).into(), 0, fields, visitor)
            }
            _ => self.many_parts(fields, visitor),
        }
    }

    #[inline(never)]
    fn many_parts<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let marker = self.input.byte()?;
        if let Some(count) = self.input.array_length(marker)? {
            return self.elements::<V, false>(count, 0, visitor);
        }
        if let Some(count) = self.input.map_length(marker)? {
            return self.entries::<V, false>(count, 0, fields, visitor);
        }
        self.found(marker, false, visitor)
    }

    /// The value that is present, regardless of the expected type. `bytes`: whether bytes are read
    /// as bytes or as a sequence of numbers.
    #[inline]
    pub(super) fn any<V: Visitor<'de>>(self, bytes: bool, visitor: V) -> Result<V::Value, Error> {
        let marker = self.input.byte()?;
        self.found(marker, bytes, visitor)
    }

    /// As [`any`](Self::any), after the marker was read.
    #[inline(never)]
    pub(super) fn found<V: Visitor<'de>>(
        self,
        marker: u8,
        bytes: bool,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Some(length) = self.input.string_length(marker)? {
            self.input.charge(length as usize)?;
            return visit_string(self.input.take(length)?, visitor);
        }
        let copies = self.copies();
        if let Some(count) = self.input.array_length(marker)? {
            return self.elements::<V, true>(count, copies, visitor);
        }
        if let Some(count) = self.input.map_length(marker)? {
            return self.entries::<V, true>(count, copies, &[], visitor);
        }
        if let Some(length) = self.input.bytes_length(marker)? {
            let taken = self.input.take(length)?;
            if bytes {
                self.input.charge(taken.len())?;
                return visitor.visit_borrowed_bytes(taken);
            }
            let Self { input, .. } = self.nested(size_of::<V::Value>())?;
            return visitor.visit_seq(Bytes::new(input, taken));
        }
        if let Some(length) = self.input.extension_length(marker)? {
            self.input.charge(length as usize)?;
            let extension = self.input.extension(length)?;
            self.nested(size_of::<V::Value>())?;
            return visitor.visit_newtype_struct(extension);
        }
        self.input.scalar(marker, visitor)
    }
}
