//! [`Extension`]: MessagePack's extension types, which serde's data model does not have.

use serde::de::value::{BorrowedBytesDeserializer, I8Deserializer};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::error::Error;

/// The type of an extension and its data, as a sequence of the two. This is rmp-serde's convention.
pub(super) struct Extension<'de> {
    kind: Option<i8>,
    data: Option<&'de [u8]>,
}

impl<'de> Extension<'de> {
    pub(super) fn new(kind: i8, data: &'de [u8]) -> Self {
        Self { kind: Some(kind), data: Some(data) }
    }
}

impl<'de> Deserializer<'de> for Extension<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for Extension<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if let Some(kind) = self.kind.take() {
            return seed.deserialize(I8Deserializer::new(kind)).map(Some);
        }
        match self.data.take() {
            Some(data) => seed.deserialize(BorrowedBytesDeserializer::new(data)).map(Some),
            None => Ok(None),
        }
    }
}
