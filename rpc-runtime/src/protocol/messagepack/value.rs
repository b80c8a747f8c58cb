//! [`ValueDeserializer`]: where the next value is read, and what it may cost there.

use serde::de::Visitor;

use super::access::{Bytes, Elements, Entries};
use super::error::{Cause, Error, fail};
use super::input::{Input, visit_string};
use super::marker as m;

/// Bytes of a value that count as a level of nesting, and the most levels that one value counts.
const BYTES_PER_LEVEL: usize = 128;
const MOST_LEVELS: usize = 32;

/// Levels of nesting, without what a value already is by itself, after which values that are read
/// without their type being known are charged as many times more.
const LEVELS_PER_COPY: u16 = 8;

/// Reads the next value.
///
/// It goes by value, so that the limits of the place where it reads stay in registers.
pub(crate) struct ValueDeserializer<'a, 'de> {
    pub(super) input: &'a mut Input<'de>,
    /// Levels of nesting that may follow.
    pub(super) depth: u16,
    /// The size of the place that the value goes to, which is paid for. What is larger lies
    /// elsewhere, as the content of a `Box` does, and pays the difference.
    pub(super) paid: usize,
    /// The field whose name is likely to come.
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
    /// The size is known when this is compiled.
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

    /// How often the next value may be copied while its type is found out, in part: charging all
    /// of it would refuse honest values. Memory stays within [`LEVELS_PER_COPY`] times the limit.
    fn copies(&self) -> usize {
        usize::from(1 + self.input.depth.saturating_sub(self.depth) / LEVELS_PER_COPY)
    }

    /// A sequence of `count` elements, which pay `times` their size. Without `PAY` nothing is
    /// allocated for them, so a count that the bytes cannot hold does no harm: they end first.
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

    /// A struct or a tuple: its parts lie within it, and are paid for with it.
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

    /// What is there, whatever was expected. `bytes`: whether bytes are bytes, or numbers.
    #[inline]
    pub(super) fn any<V: Visitor<'de>>(self, bytes: bool, visitor: V) -> Result<V::Value, Error> {
        let marker = self.input.byte()?;
        self.found(marker, bytes, visitor)
    }

    /// As [`any`](Self::any), behind the marker.
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
