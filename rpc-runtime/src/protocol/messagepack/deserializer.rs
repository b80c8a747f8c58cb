//! serde's `Deserializer` for [`ValueDeserializer`].

use serde::de::{Deserializer, Error as _, Visitor};

use super::access::Variant;
use super::error::{Cause, Error, fail};
use super::input::visit_string;
use super::marker as m;
use super::value::ValueDeserializer;

/// The name by which rmp-serde writes and reads extensions.
const EXTENSION: &str = rmp_serde::MSGPACK_EXT_STRUCT_NAME;

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
            // No byte is read here, so a recursive type could recurse without end.
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
            // The expected name is known to be UTF-8.
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
