//! [`Input`]: the remaining bytes and the remaining memory.

use serde::de::{Error as _, Visitor};

use super::error::{Cause, Error, fail};
use super::extension::Extension;
use super::limits::DecodeLimits;
use super::marker as m;

/// The remaining bytes of the input, and the memory that may still be charged.
///
/// A failed read may have consumed a part of a value, so decoding ends with it.
pub(super) struct Input<'de> {
    pub(super) rest: &'de [u8],
    memory_left: usize,
    memory: usize,
    /// More was to be charged than was left.
    exceeded: bool,
    pub(super) depth: u16,
}

impl<'de> Input<'de> {
    #[inline]
    pub(super) fn new(bytes: &'de [u8], limits: DecodeLimits) -> Self {
        let memory = limits.memory_for(bytes.len());
        Self { rest: bytes, memory_left: memory, memory, exceeded: false, depth: limits.depth }
    }

    /// The memory charged so far.
    #[inline]
    pub(super) fn charged(&self) -> usize {
        self.memory.saturating_sub(self.memory_left)
    }

    #[inline]
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        match self.memory_left.checked_sub(bytes) {
            Some(left) => {
                self.memory_left = left;
                Ok(())
            }
            None => self.exceed(),
        }
    }

    /// The error of a value that takes more memory than the limit. The value fails even if its type
    /// does not pass the error on.
    #[cold]
    #[inline(never)]
    pub(super) fn exceed<T>(&mut self) -> Result<T, Error> {
        self.exceeded = true;
        fail(Cause::TooMuchMemory(self.memory))
    }

    /// Whether the value takes more memory than the limit.
    #[inline]
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    // ---- bytes ---------------------------------------------------------------------------------

    #[inline]
    pub(super) fn peek(&self) -> Result<u8, Error> {
        match self.rest.first() {
            Some(byte) => Ok(*byte),
            None => fail(Cause::CutOff),
        }
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        match self.rest.split_first_chunk() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(*chunk)
            }
            None => fail(Cause::CutOff),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, count: u32) -> Result<&'de [u8], Error> {
        match self.rest.split_at_checked(count as usize) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => fail(Cause::CutOff),
        }
    }

    // ---- lengths -------------------------------------------------------------------------------

    #[inline]
    fn length8(&mut self) -> Result<u32, Error> {
        self.byte().map(u32::from)
    }

    #[inline]
    fn length16(&mut self) -> Result<u32, Error> {
        self.chunk().map(u16::from_be_bytes).map(u32::from)
    }

    #[inline]
    fn length32(&mut self) -> Result<u32, Error> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// The length of the string that begins with `marker`, which was already read. `None` if the
    /// marker begins another type. The same holds for the methods below.
    #[inline]
    pub(super) fn string_length(&mut self, marker: u8) -> Result<Option<u32>, Error> {
        Ok(Some(match marker {
            m::FIXSTR..=m::FIXSTR_LAST => u32::from(marker & m::FIXSTR_LENGTH),
            m::STR8 => self.length8()?,
            m::STR16 => self.length16()?,
            m::STR32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    #[inline]
    pub(super) fn bytes_length(&mut self, marker: u8) -> Result<Option<u32>, Error> {
        Ok(Some(match marker {
            m::BIN8 => self.length8()?,
            m::BIN16 => self.length16()?,
            m::BIN32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    #[inline]
    pub(super) fn array_length(&mut self, marker: u8) -> Result<Option<u32>, Error> {
        Ok(Some(match marker {
            m::FIXARRAY..=m::FIXARRAY_LAST => u32::from(marker & m::FIX_LENGTH),
            m::ARRAY16 => self.length16()?,
            m::ARRAY32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    #[inline]
    pub(super) fn map_length(&mut self, marker: u8) -> Result<Option<u32>, Error> {
        Ok(Some(match marker {
            m::FIXMAP..=m::FIXMAP_LAST => u32::from(marker & m::FIX_LENGTH),
            m::MAP16 => self.length16()?,
            m::MAP32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    /// The length of an extension's data, without its type.
    pub(super) fn extension_length(&mut self, marker: u8) -> Result<Option<u32>, Error> {
        Ok(Some(match marker {
            m::FIXEXT1..=m::FIXEXT16 => 1 << (marker - m::FIXEXT1),
            m::EXT8 => self.length8()?,
            m::EXT16 => self.length16()?,
            m::EXT32 => self.length32()?,
            _ => return Ok(None),
        }))
    }

    // ---- values without other values in them ---------------------------------------------------

    /// A number of any width, or another value in its place.
    ///
    /// Marker and number are matched in one step, since each step is a load and a store of `rest`.
    #[inline]
    pub(super) fn integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let (value, rest) = match *self.rest {
            [value @ 0..=m::POSITIVE_LAST, ref rest @ ..] => (value.into(), rest),
            [m::U8, a, ref rest @ ..] => (a.into(), rest),
            [m::U16, a, b, ref rest @ ..] => (u16::from_be_bytes([a, b]).into(), rest),
            [m::U32, a, b, c, d, ref rest @ ..] => (u32::from_be_bytes([a, b, c, d]).into(), rest),
            [m::U64, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), rest)
            }
            _ => return self.signed(visitor),
        };
        self.rest = rest;
        visitor.visit_u64(value)
    }

    #[inline(never)]
    fn signed<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let marker = self.byte()?;
        let value = match marker {
            m::NEGATIVE.. => marker.cast_signed().into(),
            m::I8 => self.byte()?.cast_signed().into(),
            m::I16 => i16::from_be_bytes(self.chunk()?).into(),
            m::I32 => i32::from_be_bytes(self.chunk()?).into(),
            m::I64 => i64::from_be_bytes(self.chunk()?),
            _ => return self.scalar(marker, visitor),
        };
        visitor.visit_i64(value)
    }

    /// The number, bool or nil that begins with `marker`, which was already read. Other markers are
    /// a mismatch.
    #[inline(never)]
    pub(super) fn scalar<V: Visitor<'de>>(
        &mut self,
        marker: u8,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match marker {
            0..=m::POSITIVE_LAST => visitor.visit_u8(marker),
            m::NEGATIVE.. => visitor.visit_i8(marker.cast_signed()),
            m::NIL => visitor.visit_unit(),
            m::FALSE | m::TRUE => visitor.visit_bool(marker == m::TRUE),
            m::U8 => visitor.visit_u8(self.byte()?),
            m::U16 => visitor.visit_u16(u16::from_be_bytes(self.chunk()?)),
            m::U32 => visitor.visit_u32(u32::from_be_bytes(self.chunk()?)),
            m::U64 => visitor.visit_u64(u64::from_be_bytes(self.chunk()?)),
            m::I8 => visitor.visit_i8(self.byte()?.cast_signed()),
            m::I16 => visitor.visit_i16(i16::from_be_bytes(self.chunk()?)),
            m::I32 => visitor.visit_i32(i32::from_be_bytes(self.chunk()?)),
            m::I64 => visitor.visit_i64(i64::from_be_bytes(self.chunk()?)),
            m::F32 => visitor.visit_f32(f32::from_be_bytes(self.chunk()?)),
            m::F64 => visitor.visit_f64(f64::from_be_bytes(self.chunk()?)),
            _ => Err(Error::invalid_type(m::describe(marker), &visitor)),
        }
    }

    /// An integer of 128 bits: as 16 bytes, or a narrower integer.
    pub(super) fn wide_integer(
        &mut self,
        expected: &dyn serde::de::Expected,
    ) -> Result<i128, Error> {
        let marker = self.byte()?;
        Ok(match marker {
            m::BIN8 => match self.byte()? {
                16 => i128::from_be_bytes(self.chunk()?),
                length => return fail(Cause::WideInteger(length.into())),
            },
            0..=m::POSITIVE_LAST => marker.into(),
            m::NEGATIVE.. => marker.cast_signed().into(),
            m::U8 => self.byte()?.into(),
            m::U16 => u16::from_be_bytes(self.chunk()?).into(),
            m::U32 => u32::from_be_bytes(self.chunk()?).into(),
            m::U64 => u64::from_be_bytes(self.chunk()?).into(),
            m::I8 => self.byte()?.cast_signed().into(),
            m::I16 => i16::from_be_bytes(self.chunk()?).into(),
            m::I32 => i32::from_be_bytes(self.chunk()?).into(),
            m::I64 => i64::from_be_bytes(self.chunk()?).into(),
            _ => return Err(Error::invalid_type(m::describe(marker), expected)),
        })
    }

    pub(super) fn extension(&mut self, length: u32) -> Result<Extension<'de>, Error> {
        let kind = self.byte()?.cast_signed();
        Ok(Extension::new(kind, self.take(length)?))
    }

    /// Skips a value of any depth, without recursion.
    pub(super) fn skip(&mut self) -> Result<(), Error> {
        let mut values = 1_u64;
        while let Some(left) = values.checked_sub(1) {
            values = left;
            let marker = self.byte()?;
            let data = match marker {
                0..=m::POSITIVE_LAST | m::NEGATIVE.. | m::NIL | m::FALSE | m::TRUE => 0,
                m::U8 | m::I8 => 1,
                m::U16 | m::I16 => 2,
                m::U32 | m::I32 | m::F32 => 4,
                m::U64 | m::I64 | m::F64 => 8,
                _ => {
                    if let Some(length) = self.string_length(marker)? {
                        length
                    } else if let Some(elements) = self.array_length(marker)? {
                        values = values.saturating_add(elements.into());
                        0
                    } else if let Some(entries) = self.map_length(marker)? {
                        values = values.saturating_add(u64::from(entries) * 2);
                        0
                    } else if let Some(length) = self.bytes_length(marker)? {
                        length
                    } else if let Some(length) = self.extension_length(marker)? {
                        self.byte()?;
                        length
                    } else {
                        return fail(Cause::NoMarker(marker));
                    }
                }
            };
            self.take(data)?;
            // Each value has at least one byte.
            if values > self.rest.len() as u64 {
                return fail(Cause::CutOff);
            }
        }
        Ok(())
    }
}

/// Bytes that were written as a string.
#[inline]
pub(super) fn visit_string<'de, V: Visitor<'de>>(
    bytes: &'de [u8],
    visitor: V,
) -> Result<V::Value, Error> {
    match str::from_utf8(bytes) {
        Ok(string) => visitor.visit_borrowed_str(string),
        // Writers of old MessagePack have no other type for bytes.
        Err(_) => match visitor.visit_borrowed_bytes::<Error>(bytes) {
            Ok(value) => Ok(value),
            Err(_) => fail(Cause::NoUtf8),
        },
    }
}
