//! Which types have which shapes, and which have none.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroI8, NonZeroU64};
use std::time::{Duration, SystemTime};

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::*;
use crate::protocol::payload::{self, Arguments, Defaulted, Form};
use crate::{RpcError, Streaming};

fn text<T: Serialize + DeserializeOwned>() -> String {
    of::<T>().map_or_else(|| "unknown".to_owned(), |shape| shape.to_string())
}

#[test]
fn values_of_the_standard_library_have_their_shapes() {
    for (text, expected) in [
        (text::<bool>(), "bool"),
        (text::<i8>(), "i8"),
        (text::<u16>(), "u16"),
        (text::<usize>(), "u64"),
        (text::<isize>(), "i64"),
        (text::<i128>(), "i128"),
        (text::<u128>(), "u128"),
        (text::<f32>(), "f32"),
        (text::<f64>(), "f64"),
        (text::<char>(), "char"),
        (text::<String>(), "str"),
        (text::<Box<str>>(), "str"),
        (text::<Cow<'static, str>>(), "str"),
        (text::<()>(), "unit"),
        (text::<Vec<u8>>(), "seq<u8>"),
        (text::<[u8; 32]>(), "(u8*32)"),
        (text::<[u8; 0]>(), "()"),
        (text::<(u8, u8, String, u8)>(), "(u8*2, str, u8)"),
        (text::<Option<Option<char>>>(), "option<option<char>>"),
        (text::<HashMap<String, u8>>(), "map<str, u8>"),
        (text::<BTreeMap<(u8, i8), Vec<bool>>>(), "map<(u8, i8), seq<bool>>"),
        (text::<BTreeSet<u32>>(), "seq<u32>"),
        (text::<Box<Cow<'static, [u8]>>>(), "seq<u8>"),
        (text::<NonZeroU64>(), "u64"),
        (text::<NonZeroI8>(), "i8"),
        (text::<Duration>(), "{secs: u64, nanos: u32}"),
        (text::<SystemTime>(), "{secs_since_epoch: u64, nanos_since_epoch: u32}"),
        (text::<std::ops::Range<u8>>(), "{start: u8, end: u8}"),
        (text::<Result<u8, String>>(), "enum{Ok = u8, Err = str}"),
        (text::<IpAddr>(), "enum{V4 = (u8*4), V6 = (u8*16)}"),
        (text::<SocketAddr>(), "enum{V4 = ((u8*4), u16), V6 = ((u8*16), u16)}"),
        (text::<std::num::Wrapping<u8>>(), "u8"),
        (text::<std::marker::PhantomData<u8>>(), "unit struct"),
        (text::<std::path::PathBuf>(), "str"),
        (text::<std::ffi::CString>(), "bytes"),
    ] {
        assert_eq!(text, expected);
    }
}

type Sixteen = (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, String);

#[test]
fn arguments_are_a_tuple_of_their_shapes() {
    let text = |shape: Option<Shape>| shape.map(|shape| shape.to_string());
    assert_eq!(text(<()>::shape()).as_deref(), Some("()"));
    assert_eq!(text(Sixteen::shape()).as_deref(), Some("(u8*15, str)"));
    assert_eq!(text(<(u8, Defaulted<String>)>::shape()).as_deref(), Some("(u8, str)"));
    assert_eq!(text(<(u8, Untagged)>::shape()), None);
    assert_eq!(
        text(<(Streaming<Option<Point>>,)>::shape()).as_deref(),
        Some("(stream<option<{x: i32, y: i32}>>)")
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "another name")]
struct Renamed {
    x: i32,
    y: i32,
}

#[derive(Serialize, Deserialize)]
struct Meters(f64);
#[derive(Serialize, Deserialize)]
struct Pair(Meters, Option<Point>);
#[derive(Serialize, Deserialize)]
struct Nothing;
#[derive(Serialize, Deserialize)]
struct Empty {}
#[derive(Serialize, Deserialize)]
struct Generic<T> {
    #[serde(rename = "the \"one\"")]
    one: T,
    #[serde(skip)]
    _here_only: u8,
    #[serde(default)]
    many: Vec<T>,
}

#[derive(Serialize, Deserialize)]
enum Every {
    Unit,
    Newtype(Point),
    Tuple(u8, Colour),
    Struct { a: Colour, b: Option<Box<Colour>> },
    NewtypeUnit(()),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Colour {
    Red,
    Other(u8, u8, u8),
}

#[test]
fn structs_and_enums_are_told_by_names_order_and_kinds_and_not_by_their_own_names() {
    assert_eq!(text::<Point>(), "{x: i32, y: i32}");
    assert_eq!(text::<Point>(), text::<Renamed>());
    assert_eq!(text::<Pair>(), "(f64, option<{x: i32, y: i32}>)");
    assert_eq!(text::<(Nothing, Empty)>(), "(unit struct, {})");
    assert_eq!(text::<Generic<u8>>(), "{\"the \\\"one\\\"\": u8, many: seq<u8>}");
    assert_ne!(text::<Generic<u8>>(), text::<Generic<u16>>());
    let colour = "enum{red, other(u8*3)}";
    assert_eq!(text::<Colour>(), colour);
    assert_eq!(
        text::<Every>(),
        format!(
            "enum{{Unit, Newtype = {{x: i32, y: i32}}, Tuple(u8, {colour}), \
             Struct{{a: {colour}, b: option<{colour}>}}, NewtypeUnit = unit}}"
        )
    );
}

#[derive(Serialize, Deserialize)]
struct List {
    value: u8,
    next: Option<Box<List>>,
}
#[derive(Serialize, Deserialize)]
struct Tree(Vec<Tree>);
#[derive(Serialize, Deserialize)]
struct Json {
    children: HashMap<String, Json>,
    twin: Option<Rc2>,
}
#[derive(Serialize, Deserialize)]
struct Rc2(Box<Json>);
#[derive(Serialize, Deserialize)]
enum Expression {
    Add(Box<Expression>, Box<Expression>, u8),
    Call { name: String, arguments: Vec<Expression> },
    Block(Box<Statement>),
    Literal(i64),
}
#[derive(Serialize, Deserialize)]
enum Statement {
    Expression(Expression),
    Block(Vec<Statement>),
}
#[derive(Serialize, Deserialize)]
struct Outer {
    inner: Inner<Outer>,
}
#[derive(Serialize, Deserialize)]
struct Inner<T> {
    next: Option<Box<T>>,
}
#[derive(Serialize, Deserialize)]
struct OuterOfInner {
    inner: InnerOfInner,
}
#[derive(Serialize, Deserialize)]
struct InnerOfInner {
    next: Option<Wrapped>,
}
#[derive(Serialize, Deserialize)]
struct Wrapped(Box<InnerOfInner>);
#[derive(Serialize, Deserialize)]
struct Endless {
    #[serde(deserialize_with = "none")]
    next: Box<Option<Endless>>,
}
fn none<'de, D: Deserializer<'de>>(d: D) -> Result<Box<Option<Endless>>, D::Error> {
    Endless::deserialize(d).map(|next| Box::new(Some(next)))
}

#[test]
fn recursion_is_found_and_ends() {
    assert_eq!(text::<List>(), "{value: u8, next: option<^2>}");
    assert_eq!(text::<Tree>(), "seq<^1>");
    assert_eq!(text::<Json>(), "{children: map<str, ^2>, twin: option<^2>}");
    assert_eq!(
        text::<Expression>(),
        "enum{Add(^2*2, u8), Call{name: str, arguments: seq<^3>}, \
         Block = enum{Expression = ^2, Block = seq<^2>}, Literal = i64}"
    );
    assert_eq!(text::<Outer>(), "{inner: {next: option<^3>}}");
    assert_eq!(text::<OuterOfInner>(), "{inner: {next: option<^2>}}", "newtypes do not count");
    assert_eq!(text::<Endless>(), "unknown", "it has no value at all");
    assert_ne!(text::<RpcError>(), "unknown", "most contracts have it");
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    One(u8),
    Two(String),
}
#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
enum InternallyTagged {
    One { a: u8 },
    Two { b: String },
}
#[derive(Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum AdjacentlyTagged {
    One(u8),
    Two(String),
    Three,
}
#[derive(Serialize, Deserialize)]
struct Flattened {
    a: u8,
    #[serde(flatten)]
    point: Point,
}
#[allow(dead_code, reason = "read by nobody")]
#[derive(Serialize, Deserialize)]
struct SkipSerializing {
    #[serde(skip_serializing, default)]
    a: u8,
    b: u8,
}
#[derive(Serialize, Deserialize)]
struct SkipDeserializing {
    #[serde(skip_deserializing)]
    a: u8,
    b: u8,
}
#[derive(Serialize, Deserialize)]
struct OneWayName {
    #[serde(rename(serialize = "b"))]
    a: u8,
}
#[derive(Serialize, Deserialize)]
struct Alias {
    #[serde(alias = "b")]
    a: u8,
}
#[derive(Serialize, Deserialize)]
#[serde(from = "Point", into = "Pair2")]
struct OneInAnotherOut;
impl From<Point> for OneInAnotherOut {
    fn from(_: Point) -> Self {
        Self
    }
}
#[derive(Serialize)]
struct Pair2 {
    y: i32,
    x: i32,
}
impl From<OneInAnotherOut> for Pair2 {
    fn from(_: OneInAnotherOut) -> Self {
        Self { x: 0, y: 0 }
    }
}
impl Clone for OneInAnotherOut {
    fn clone(&self) -> Self {
        Self
    }
}

/// Reads by position in another order than it says.
#[derive(Serialize)]
struct Swapped {
    a: u8,
    b: u8,
}
impl<'de> Deserialize<'de> for Swapped {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct BFirst;
        impl<'de> Visitor<'de> for BFirst {
            type Value = Swapped;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("b and a")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Swapped, A::Error> {
                let missing = || A::Error::custom("missing");
                let b = seq.next_element()?.ok_or_else(missing)?;
                Ok(Swapped { a: seq.next_element()?.ok_or_else(missing)?, b })
            }
        }
        d.deserialize_struct("Swapped", &["a", "b"], BFirst)
    }
}

/// Leaves out an empty field without saying so.
#[derive(Deserialize)]
struct Sly {
    #[serde(default)]
    a: u8,
    b: u8,
}
impl Serialize for Sly {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut fields = s.serialize_struct("Sly", if self.a == 0 { 1 } else { 2 })?;
        if self.a != 0 {
            fields.serialize_field("a", &self.a)?;
        }
        fields.serialize_field("b", &self.b)?;
        fields.end()
    }
}

/// Like a time stamp that is read from its text.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Parsed;
impl TryFrom<String> for Parsed {
    type Error = &'static str;
    fn try_from(_: String) -> Result<Self, &'static str> {
        Err("no time stamp")
    }
}
impl From<Parsed> for String {
    fn from(_: Parsed) -> Self {
        "2000-01-01T00:00:00Z".to_owned()
    }
}
impl Clone for Parsed {
    fn clone(&self) -> Self {
        Self
    }
}

#[derive(Serialize, Deserialize)]
enum Never {}

#[derive(Serialize)]
struct Panics;
impl<'de> Deserialize<'de> for Panics {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("a user's code")
    }
}

#[test]
fn what_compact_could_misread_has_no_shape() {
    for (name, text) in [
        ("untagged", text::<Untagged>()),
        ("internally tagged", text::<InternallyTagged>()),
        ("adjacently tagged", text::<AdjacentlyTagged>()),
        ("flatten", text::<Flattened>()),
        ("skip_serializing", text::<SkipSerializing>()),
        ("skip_deserializing", text::<SkipDeserializing>()),
        ("rename(serialize)", text::<OneWayName>()),
        ("alias", text::<Alias>()),
        ("from and into", text::<OneInAnotherOut>()),
        ("read in another order", text::<Swapped>()),
        ("fields left out without a word", text::<Sly>()),
        ("parsed", text::<Parsed>()),
        ("panics", text::<Panics>()),
        ("within others", text::<Vec<Option<Flattened>>>()),
        ("an enum without variants", text::<Never>()),
    ] {
        assert_eq!(text, "unknown", "{name}");
    }
}

/// Sixteen bytes, no more and no less.
#[derive(Clone, Copy)]
struct Id([u8; 16]);
impl Serialize for Id {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}
impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Sixteen;
        impl Visitor<'_> for Sixteen {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("16 bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Id, E> {
                bytes.try_into().map(Id).map_err(E::custom)
            }
        }
        d.deserialize_bytes(Sixteen)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[derive(Clone)]
struct UpToTwo(u8);
impl TryFrom<u8> for UpToTwo {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, &'static str> {
        if number <= 2 { Ok(Self(number)) } else { Err("too much") }
    }
}
impl From<UpToTwo> for u8 {
    fn from(number: UpToTwo) -> Self {
        number.0
    }
}

#[test]
fn types_that_refuse_a_dummy_are_given_another() {
    assert_eq!(text::<(Id, Id, u8)>(), "(bytes*2, u8)");
    assert_eq!(text::<(UpToTwo, String, NonZeroU64)>(), "(u8, str, u64)");
}

#[test]
fn a_type_that_is_too_large_has_no_shape_and_takes_no_time() {
    type Ten<T> = (T, T, T, T, T, T, T, T, T, T);
    assert_eq!(text::<Ten<Ten<u8>>>(), "((u8*10)*10)");
    assert_eq!(text::<Ten<Ten<Ten<Ten<u8>>>>>(), "unknown");
}

#[test]
fn the_fingerprint_is_fnv_1a_of_the_text() {
    // Computed elsewhere, so that it cannot change unnoticed: old and new ends would only agree on
    // named.
    let shape = of::<(Point, Option<Colour>)>().unwrap();
    assert_eq!(shape.to_string(), "({x: i32, y: i32}, option<enum{red, other(u8*3)}>)");
    assert_eq!(shape.fingerprint(), 0xf3191de86ec16369);
    assert_ne!(Shape::Tuple(Vec::new()).fingerprint(), 0);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    a: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    b: Option<u8>,
    c: Vec<SparseVariant>,
}
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum SparseVariant {
    V {
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        one: Vec<u8>,
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        two: Vec<u8>,
    },
}

#[test]
fn a_value_that_leaves_out_fields_is_written_named_and_reads_back() {
    assert_ne!(text::<Sparse>(), "unknown", "it is compact when all is there");
    let both = SparseVariant::V { one: vec![1], two: vec![2] };
    let second = SparseVariant::V { one: vec![], two: vec![2] };
    for (a, b, c, form) in [
        (Some(1), Some(2), vec![both.clone()], Form::Compact),
        (None, Some(2), vec![], Form::Named),
        (Some(1), None, vec![], Form::Named),
        (Some(1), Some(2), vec![both, second], Form::Named),
    ] {
        let value = Sparse { a, b, c };
        let mut out = vec![7];
        assert_eq!(payload::encode(&value, Form::Compact, &mut out).unwrap(), form, "{value:?}");
        assert_eq!(payload::decode::<Sparse>(&out[1..]).unwrap(), value);
    }
}
