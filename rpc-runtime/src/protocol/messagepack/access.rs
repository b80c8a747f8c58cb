//! Access to the content of sequences, maps and enums.

use std::slice::Iter;

use serde::de::value::U8Deserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};

use super::error::Error;
use super::input::Input;
use super::marker as m;
use super::value::ValueDeserializer;

/// Maximum elements that a collection is told to reserve. It grows as they are read.
const MOST_RESERVED: u32 = 1024;

/// The minimum number of entries that a `BTreeMap` allocates.
const NODE: u32 = 11;

/// In place of an unknown size: within a value that is already charged.
const PAID: usize = usize::MAX;

/// The elements of a sequence. With `PAY`, all of them are charged at the first one: in one step,
/// and before the collection grows.
pub(super) struct Elements<'a, 'de, const PAY: bool> {
    input: &'a mut Input<'de>,
    depth: u16,
    left: u32,
    /// How many times the size is to be charged; 0 once it is.
    due: usize,
}

impl<'a, 'de, const PAY: bool> Elements<'a, 'de, PAY> {
    #[inline]
    pub(super) fn new(input: &'a mut Input<'de>, depth: u16, left: u32, due: usize) -> Self {
        Self { input, depth, left, due }
    }

    #[inline]
    pub(super) fn left(&self) -> u32 {
        self.left
    }
}

impl<'de, const PAY: bool> SeqAccess<'de> for Elements<'_, 'de, PAY> {
    type Error = Error;

    #[inline(always)]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        let size = size_of::<S::Value>();
        if PAY && self.due > 0 {
            pay(self.input, size, self.left, &mut self.due)?;
        }
        self.left = left;
        let (depth, paid) = (self.depth, size);
        seed.deserialize(ValueDeserializer { input: self.input, depth, paid, field: None })
            .map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(MOST_RESERVED) as usize)
    }
}

/// The entries of a map, or the fields of a struct. With `PAY`, all keys are charged at the first
/// key, and all values at the first value.
pub(super) struct Entries<'a, 'de, const PAY: bool> {
    input: &'a mut Input<'de>,
    depth: u16,
    left: u32,
    keys_due: usize,
    values_due: usize,
    /// In their likely order.
    fields: Iter<'static, &'static str>,
}

impl<'a, 'de, const PAY: bool> Entries<'a, 'de, PAY> {
    #[inline]
    pub(super) fn new(
        input: &'a mut Input<'de>,
        depth: u16,
        left: u32,
        due: usize,
        fields: &'static [&'static str],
    ) -> Self {
        Self { input, depth, left, keys_due: due, values_due: due, fields: fields.iter() }
    }

    #[inline]
    pub(super) fn left(&self) -> u32 {
        self.left
    }
}

impl<'de, const PAY: bool> MapAccess<'de> for Entries<'_, 'de, PAY> {
    type Error = Error;

    #[inline(always)]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        let size = size_of::<S::Value>();
        if PAY && self.keys_due > 0 {
            pay(self.input, size, self.left.max(NODE), &mut self.keys_due)?;
        }
        self.left = left;
        let field = self.fields.next().copied();
        let (depth, paid) = (self.depth, size);
        seed.deserialize(ValueDeserializer { input: self.input, depth, paid, field }).map(Some)
    }

    #[inline(always)]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let size = size_of::<S::Value>();
        if PAY && self.values_due > 0 {
            // Its key is not among the remaining fields.
            pay(self.input, size, self.left.saturating_add(1).max(NODE), &mut self.values_due)?;
        }
        let (depth, paid) = (self.depth, size);
        seed.deserialize(ValueDeserializer { input: self.input, depth, paid, field: None })
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(MOST_RESERVED) as usize)
    }
}

#[inline(never)]
fn pay(input: &mut Input<'_>, size: usize, count: u32, due: &mut usize) -> Result<(), Error> {
    let times = std::mem::take(due);
    input.charge(size.saturating_mul(count as usize).saturating_mul(times))
}

/// Bytes where a sequence is expected, as a sequence of numbers.
pub(super) struct Bytes<'a, 'de> {
    input: &'a mut Input<'de>,
    left: Iter<'de, u8>,
    due: usize,
}

impl<'a, 'de> Bytes<'a, 'de> {
    pub(super) fn new(input: &'a mut Input<'de>, bytes: &'de [u8]) -> Self {
        Self { input, left: bytes.iter(), due: 1 }
    }
}

impl<'de> SeqAccess<'de> for Bytes<'_, 'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let left = u32::try_from(self.left.len()).unwrap_or(u32::MAX);
        let Some(byte) = self.left.next() else { return Ok(None) };
        if self.due > 0 {
            pay(self.input, size_of::<S::Value>(), left, &mut self.due)?;
        }
        seed.deserialize(U8Deserializer::new(*byte)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len().min(MOST_RESERVED as usize))
    }
}

/// The variant of an enum: its name and its content.
pub(super) struct Variant<'a, 'de> {
    pub(super) input: &'a mut Input<'de>,
    /// Remaining levels of nesting after the enum, and in its place: the content of a variant adds
    /// no level.
    pub(super) depth: u16,
    pub(super) depth_of_enum: u16,
    pub(super) has_content: bool,
}

impl<'a, 'de> Variant<'a, 'de> {
    /// The content lies within the enum, which is already charged.
    #[inline]
    fn content(self, kind: &'static str) -> Result<ValueDeserializer<'a, 'de>, Error> {
        let Self { input, depth, has_content, .. } = self;
        if has_content {
            return Ok(ValueDeserializer { input, depth, paid: PAID, field: None });
        }
        missing(kind)
    }

    #[inline]
    fn parts<V: Visitor<'de>>(
        self,
        kind: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let depth = self.depth_of_enum;
        ValueDeserializer { depth, ..self.content(kind)? }.parts(fields, visitor)
    }
}

#[cold]
fn missing<T>(kind: &'static str) -> Result<T, Error> {
    Err(Error::invalid_type(Unexpected::UnitVariant, &kind))
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name = ValueDeserializer {
            input: &mut *self.input,
            depth: self.depth,
            paid: PAID,
            field: None,
        };
        let variant = seed.deserialize(name)?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    #[inline]
    fn unit_variant(self) -> Result<(), Error> {
        if !self.has_content {
            return Ok(());
        }
        match self.input.byte()? {
            m::NIL => Ok(()),
            marker => Err(Error::invalid_type(m::describe(marker), &"unit variant")),
        }
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let content = self.content("newtype variant")?;
        seed.deserialize(ValueDeserializer { paid: size_of::<S::Value>(), ..content })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.parts("tuple variant", &[], visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.parts("struct variant", fields, visitor)
    }
}
