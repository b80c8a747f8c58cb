//! [`Defaulted`], and the deserializer of [`Missing`] values.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::Error as ValueError;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize};

/// An argument that takes its type's default when the caller did not send it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaulted<T>(pub T);

/// Tells [`Missing`] who asks.
const DEFAULTED: &str = "rpc_runtime::Defaulted";

impl<T: Serialize> Serialize for Defaulted<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Defaulted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OrDefault<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for OrDefault<T> {
            type Value = Defaulted<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(Defaulted(T::default()))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                d: D,
            ) -> Result<Self::Value, D::Error> {
                T::deserialize(d).map(Defaulted)
            }
        }
        deserializer.deserialize_newtype_struct(DEFAULTED, OrDefault(PhantomData))
    }
}

/// A missing value: `None` for an option, an error for all other types. serde does the same for
/// missing fields of structs.
pub(super) struct Missing;

impl<'de> Deserializer<'de> for Missing {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ValueError> {
        Err(ValueError::custom("missing"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        if name == DEFAULTED { visitor.visit_none() } else { visitor.visit_newtype_struct(self) }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
