//! Recording what the serialization of a value writes, as a [`Shape`] with one variant in each
//! enum.

use std::fmt;

use serde::Serialize;
use serde::ser::{
    Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::dummy::{Digest, Sample};
use super::tree::{STREAM, Shape, UNIT_VARIANT};

/// The shape of `value` as written. `None` if it cannot be written, or not be compared with a read
/// shape.
pub(super) fn record<T: Serialize>(value: &T) -> Option<Shape> {
    value.serialize(Recorder).ok()
}

#[derive(Debug)]
struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value cannot be written")
    }
}

impl std::error::Error for Aborted {}

impl Error for Aborted {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self
    }
}

struct Recorder;

/// Parts that are written one after the other. `wrap` makes a shape of them.
struct Parts<W> {
    names: Vec<&'static str>,
    parts: Vec<Shape>,
    wrap: W,
}

type Wrap = fn(Vec<Shape>) -> Shape;

impl<W> Parts<W> {
    fn new(wrap: W) -> Self {
        Self { names: Vec::new(), parts: Vec::new(), wrap }
    }

    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Aborted> {
        self.parts.push(value.serialize(Recorder)?);
        Ok(())
    }

    fn fields(self) -> (W, Shape) {
        (self.wrap, Shape::Struct(self.names.into_iter().zip(self.parts).collect()))
    }
}

fn variant(name: &'static str, content: Shape) -> Shape {
    Shape::Enum(vec![(name, content)])
}

macro_rules! leaves {
    ($($method:ident $kind:literal $type:ty;)*) => {
        $(fn $method(self, value: $type) -> Result<Shape, Aborted> {
            Ok(Shape::Scalar($kind, value.digest()))
        })*
    };
}

impl Serializer for Recorder {
    type Ok = Shape;
    type Error = Aborted;
    type SerializeSeq = Parts<()>;
    type SerializeTuple = Parts<Wrap>;
    type SerializeTupleStruct = Parts<Wrap>;
    type SerializeTupleVariant = Parts<&'static str>;
    type SerializeMap = Parts<()>;
    type SerializeStruct = Parts<()>;
    type SerializeStructVariant = Parts<&'static str>;

    leaves! {
        serialize_bool "bool" bool;
        serialize_i8 "i8" i8;
        serialize_i16 "i16" i16;
        serialize_i32 "i32" i32;
        serialize_i64 "i64" i64;
        serialize_i128 "i128" i128;
        serialize_u8 "u8" u8;
        serialize_u16 "u16" u16;
        serialize_u32 "u32" u32;
        serialize_u64 "u64" u64;
        serialize_u128 "u128" u128;
        serialize_f32 "f32" f32;
        serialize_f64 "f64" f64;
        serialize_char "char" char;
        serialize_str "str" &str;
        serialize_bytes "bytes" &[u8];
    }

    fn serialize_none(self) -> Result<Shape, Aborted> {
        Ok(Shape::Option(Box::new(Shape::Unseen)))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Shape, Aborted> {
        Ok(Shape::Option(Box::new(value.serialize(self)?)))
    }

    fn serialize_unit(self) -> Result<Shape, Aborted> {
        Ok(Shape::Scalar("unit", 0))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Shape, Aborted> {
        Ok(Shape::Scalar("unit struct", 0))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<Shape, Aborted> {
        Ok(variant(name, Shape::Scalar(UNIT_VARIANT, 0)))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Shape, Aborted> {
        let inner = value.serialize(self)?;
        Ok(if name == STREAM { Shape::Stream(Box::new(inner)) } else { inner })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<Shape, Aborted> {
        Ok(variant(name, Shape::Newtype(Box::new(value.serialize(self)?))))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<()>, Aborted> {
        Ok(Parts::new(()))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<Wrap>, Aborted> {
        Ok(Parts::new(Shape::Tuple))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<Wrap>, Aborted> {
        Ok(Parts::new(Shape::Tuple))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Parts<&'static str>, Aborted> {
        Ok(Parts::new(name))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<()>, Aborted> {
        Ok(Parts::new(()))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<()>, Aborted> {
        Ok(Parts::new(()))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Parts<&'static str>, Aborted> {
        Ok(Parts::new(name))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl SerializeSeq for Parts<()> {
    type Ok = Shape;
    type Error = Aborted;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Aborted> {
        self.add(value)
    }

    fn end(mut self) -> Result<Shape, Aborted> {
        // At most one element was read.
        match (self.parts.pop(), self.parts.is_empty()) {
            (element, true) => Ok(Shape::Seq(Box::new(element.unwrap_or(Shape::Unseen)))),
            _ => Err(Aborted),
        }
    }
}

impl SerializeMap for Parts<()> {
    type Ok = Shape;
    type Error = Aborted;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Aborted> {
        self.add(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Aborted> {
        self.add(value)
    }

    fn end(mut self) -> Result<Shape, Aborted> {
        let entry = (self.parts.pop(), self.parts.pop(), self.parts.is_empty());
        match entry {
            (Some(value), Some(key), true) => Ok(Shape::Map(Box::new((key, value)))),
            (None, None, true) => Ok(Shape::Map(Box::new((Shape::Unseen, Shape::Unseen)))),
            _ => Err(Aborted),
        }
    }
}

impl SerializeTuple for Parts<Wrap> {
    type Ok = Shape;
    type Error = Aborted;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Aborted> {
        self.add(value)
    }

    fn end(self) -> Result<Shape, Aborted> {
        Ok((self.wrap)(self.parts))
    }
}

impl SerializeTupleStruct for Parts<Wrap> {
    type Ok = Shape;
    type Error = Aborted;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Aborted> {
        self.add(value)
    }

    fn end(self) -> Result<Shape, Aborted> {
        Ok((self.wrap)(self.parts))
    }
}

impl SerializeTupleVariant for Parts<&'static str> {
    type Ok = Shape;
    type Error = Aborted;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Aborted> {
        self.add(value)
    }

    fn end(self) -> Result<Shape, Aborted> {
        Ok(variant(self.wrap, Shape::Tuple(self.parts)))
    }
}

macro_rules! fields {
    ($($trait:ident $wrap:ty, $end:expr;)*) => {
        $(impl $trait for Parts<$wrap> {
            type Ok = Shape;
            type Error = Aborted;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Aborted> {
                self.names.push(name);
                self.add(value)
            }

            /// Compact arrays are not used for values that leave out fields, so the place is kept.
            fn skip_field(&mut self, name: &'static str) -> Result<(), Aborted> {
                self.names.push(name);
                self.parts.push(Shape::Unseen);
                Ok(())
            }

            fn end(self) -> Result<Shape, Aborted> {
                let (wrap, fields) = self.fields();
                Ok($end(wrap, fields))
            }
        })*
    };
}

fields! {
    SerializeStruct (), |(), fields| fields;
    SerializeStructVariant &'static str, variant;
}
