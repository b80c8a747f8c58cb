//! [`ValueDeserializer`]: serde's deserializer of one value.

use serde::de::{Deserializer, Error as _, Visitor};

use super::access::{Bytes, Elements, Entries, Variant};
use super::error::{Cause, Error, fail};
use super::input::{Input, visit_string};
use super::marker as m;

/// By this name rmp-serde writes and reads extensions.
const EXTENSION: &str = rmp_serde::MSGPACK_EXT_STRUCT_NAME;

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
    fn nested(self, size: usize) -> Result<Self, Error> {
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
    fn elements<V: Visitor<'de>, const PAY: bool>(
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
    fn entries<V: Visitor<'de>, const PAY: bool>(
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
    fn any<V: Visitor<'de>>(self, bytes: bool, visitor: V) -> Result<V::Value, Error> {
        let marker = self.input.byte()?;
        self.found(marker, bytes, visitor)
    }

    /// As [`any`](Self::any), behind the marker.
    #[inline(never)]
    fn found<V: Visitor<'de>>(
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

macro_rules! integers {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                self.input.integer(visitor)
            }
        )*
    };
}

macro_rules! strings {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                let (length, rest) = match *self.input.rest {
                    [marker @ m::FIXSTR..=m::FIXSTR_LAST, ref rest @ ..] => {
                        (marker & m::FIXSTR_LENGTH, rest)
                    }
                    [m::STR8, length, ref rest @ ..] => (length, rest),
                    _ => return self.any(true, visitor),
                };
                self.input.rest = rest;
                self.input.charge(length.into())?;
                visit_string(self.input.take(length.into())?, visitor)
            }
        )*
    };
}

macro_rules! floats {
    ($($method:ident $visit:ident $float:ident $marker:ident;)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                match self.input.byte()? {
                    m::$marker => visitor.$visit($float::from_be_bytes(self.input.chunk()?)),
                    marker => self.input.scalar(marker, visitor),
                }
            }
        )*
    };
}

macro_rules! whatever_is_there {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                self.any(true, visitor)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for ValueDeserializer<'_, 'de> {
    type Error = Error;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    strings! { deserialize_char deserialize_str deserialize_string }

    floats! {
        deserialize_f32 visit_f32 f32 F32;
        deserialize_f64 visit_f64 f64 F64;
    }

    whatever_is_there! { deserialize_any deserialize_bytes deserialize_byte_buf deserialize_unit }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.input.byte()? {
            marker @ (m::FALSE | m::TRUE) => visitor.visit_bool(marker == m::TRUE),
            marker => self.input.scalar(marker, visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = self.input.wide_integer(&visitor)?;
        visitor.visit_i128(value)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = self.input.wide_integer(&visitor)?;
        visitor.visit_u128(value.cast_unsigned())
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match *self.input.rest {
            [m::NIL, ref rest @ ..] => {
                self.input.rest = rest;
                visitor.visit_none()
            }
            [] => fail(Cause::CutOff),
            // No byte is read here, so a type alone can go round in circles.
            _ => visitor.visit_some(self.nested(size_of::<V::Value>())?),
        }
    }

    /// rmp-serde writes unit structs as empty arrays.
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match *self.input.rest {
            [m::NIL | m::FIXARRAY, ref rest @ ..] => {
                self.input.rest = rest;
                visitor.visit_unit()
            }
            _ => self.any(true, visitor),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == EXTENSION {
            let marker = self.input.byte()?;
            return match self.input.extension_length(marker)? {
                Some(length) => visitor.visit_newtype_struct(self.input.extension(length)?),
                None => Err(Error::invalid_type(m::describe(marker), &visitor)),
            };
        }
        visitor.visit_newtype_struct(self.nested(size_of::<V::Value>())?)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let marker = self.input.byte()?;
        match self.input.array_length(marker)? {
            Some(count) => self.elements::<V, true>(count, 1, visitor),
            None => self.found(marker, false, visitor),
        }
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let marker = self.input.byte()?;
        match self.input.map_length(marker)? {
            Some(count) => self.entries::<V, true>(count, 1, &[], visitor),
            None => self.found(marker, true, visitor),
        }
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.parts(&[], visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.parts(&[], visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.parts(fields, visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let has_content = match self.input.peek()? {
            marker @ (m::FIXMAP..=m::FIXMAP_LAST | m::MAP16 | m::MAP32) => {
                self.input.byte()?;
                match self.input.map_length(marker)? {
                    Some(1) => true,
                    entries => return fail(Cause::VariantOf(entries.unwrap_or_default())),
                }
            }
            _ => false,
        };
        let depth_of_enum = self.depth;
        let Self { input, depth, .. } = self.nested(size_of::<V::Value>())?;
        visitor.visit_enum(Variant { input, depth, depth_of_enum, has_content })
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let [marker @ m::FIXSTR..=m::FIXSTR_LAST, ref rest @ ..] = *self.input.rest else {
            return self.any(true, visitor);
        };
        self.input.rest = rest;
        let name = self.input.take((marker & m::FIXSTR_LENGTH).into())?;
        match self.field {
            // The one that was expected is known to be UTF-8.
            Some(field) if field.as_bytes() == name => visitor.visit_borrowed_str(field),
            _ => visit_string(name, visitor),
        }
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.input.skip()?;
        visitor.visit_unit()
    }
}
