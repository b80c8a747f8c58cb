//! Decodes the value at a position by its marker: scalars, and what values contain.

use serde::de::Visitor;

use super::access::{Bytes, Elements, Entries};
use super::error::{Cause, Error, fail};
use super::input::visit_string;
use super::marker as m;
use super::value::ValueDeserializer;

impl<'de> ValueDeserializer<'_, 'de> {
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
