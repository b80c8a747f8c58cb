//! What a few bytes can cost.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use super::super::{Counted, DecodeLimits, decode, decode_counted};
use crate::protocol::Blob;

/// On a thread with so much stack.
fn with_stack<R: Send + 'static>(bytes: usize, run: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::Builder::new().stack_size(bytes).spawn(run).unwrap().join().unwrap()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Expr {
    Num(i64),
    Neg(Box<Expr>),
    Add(Box<Expr>, Box<Expr>),
    If { condition: Box<Expr>, then: Option<Box<Expr>> },
}

/// Nothing if its content fails.
#[derive(Debug)]
struct Lenient(#[expect(dead_code, reason = "only that there is one")] Option<Vec<Wide>>);

/// One byte on the wire.
#[derive(Debug, Deserialize)]
struct Wide {
    #[serde(skip)]
    _numbers: [u64; 32],
}

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::deserialize(deserializer).ok()))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Loop(Option<Box<Loop>>);

#[derive(Debug, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    kid: Option<Box<Named>>,
    kids: BTreeMap<u8, Named>,
}

/// As a middleware might be: large, and with much in it.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only its size matters")]
struct Large {
    numbers: [[u64; 32]; 4],
    a: String,
    b: Option<String>,
    c: Vec<u32>,
    d: BTreeMap<String, String>,
    #[serde(default)]
    kid: Option<Box<Large>>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "t")]
#[expect(dead_code, reason = "only its nesting matters")]
enum Tagged {
    Leaf,
    Node { kid: Box<Tagged> },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its nesting matters")]
enum Untagged {
    List(Vec<Untagged>),
    Node { kid: Box<Untagged> },
}

/// `layer` so many times, around `core`.
fn nested(layer: &[u8], times: usize, core: &[u8]) -> Vec<u8> {
    [&layer.repeat(times), core].concat()
}

fn message<T: DeserializeOwned + Debug>(bytes: &[u8]) -> String {
    decode::<T>(bytes, DecodeLimits::new()).unwrap_err().message().to_owned()
}

const TOO_DEEP: &str = "the value is nested deeper than the limit of 256 levels";

/// Half of what tokio's threads have: the rest is for who calls.
const STACK: usize = 1 << 20;

#[test]
fn a_value_over_the_memory_limit_fails_even_if_its_type_ignores_that() {
    let bytes = [0x94, 0x80, 0x80, 0x80, 0x80];
    let limits = DecodeLimits::new();
    decode::<Lenient>(&bytes, limits.memory(1_100)).unwrap();
    let error = decode::<Lenient>(&bytes, limits.memory(1_000)).unwrap_err();
    assert!(error.is_decode() && error.message().contains("1000 bytes"), "{error}");
}

#[test]
fn nesting_of_each_shape_ends_with_an_error_and_not_with_the_process() {
    with_stack(STACK, || {
        let many = 15_000;
        assert_eq!(message::<Expr>(&nested(b"\x81\xa3Neg", many, b"\x81\xa3Num\x05")), TOO_DEEP);
        let add = b"\x81\xa3Add\x92\x81\xa3Num\x05";
        assert_eq!(message::<Expr>(&nested(add, many, b"\x81\xa3Num\x05")), TOO_DEEP);
        let condition = b"\x81\xa2If\x81\xa9condition";
        assert_eq!(message::<Expr>(&nested(condition, many, b"\x81\xa3Num\x05")), TOO_DEEP);
        // A byte is enough where the type itself goes round in circles.
        assert_eq!(message::<Loop>(b"\x01"), TOO_DEEP);
        assert_eq!(message::<Option<Loop>>(b"\x90"), TOO_DEEP);
        assert_eq!(message::<Tree>(&nested(b"\x91", many, b"\x90")), TOO_DEEP);
        assert_eq!(message::<Named>(&nested(b"\x81\xa3kid", many, b"\x80")), TOO_DEEP);
        assert_eq!(message::<Named>(&nested(b"\x92\xc0\x81\x01", many, b"\x92\xc0\x80")), TOO_DEEP);
        assert_eq!(message::<serde_json::Value>(&nested(b"\x91", many, b"\x90")), TOO_DEEP);
        assert_eq!(message::<serde_json::Value>(&nested(b"\x81\xa1a", many, b"\x90")), TOO_DEEP);
        assert_eq!(message::<Large>(&nested(b"\x81\xa3kid", many, b"\x80")), TOO_DEEP);
        assert_eq!(
            message::<Tagged>(&nested(b"\x82\xa1t\xa4Node\xa3kid", many, b"\x90")),
            TOO_DEEP
        );
        assert_eq!(message::<Untagged>(&nested(b"\x91", many, b"\x90")), TOO_DEEP);
        decode::<Untagged>(&nested(b"\x91", 200, b"\x90"), DecodeLimits::new()).unwrap();
        // What is skipped needs no stack.
        let skipped = nested(b"\x91", 1 << 20, b"\xc0");
        decode::<IgnoredAny>(&skipped, DecodeLimits::new()).unwrap();
    });
}

#[test]
fn a_tree_may_have_as_many_levels_as_the_limit_says() {
    with_stack(STACK, || {
        let of_levels = |levels: usize| nested(b"\x81\xa3Neg", levels - 1, b"\x81\xa3Num\x05");
        decode::<Expr>(&of_levels(256), DecodeLimits::new()).unwrap();
        assert_eq!(message::<Expr>(&of_levels(257)), TOO_DEEP);
        let add = b"\x81\xa3Add\x92\x81\xa3Num\x05";
        decode::<Expr>(&nested(add, 255, b"\x81\xa3Num\x05"), DecodeLimits::new()).unwrap();
        let limits = DecodeLimits::new().depth(3);
        decode::<Expr>(&of_levels(3), limits).unwrap();
        let error = decode::<Expr>(&of_levels(4), limits).unwrap_err();
        assert!(error.message().contains("limit of 3 levels"), "{error}");
        // No more than what was tried with the stack that threads have.
        assert_eq!(DecodeLimits::new().depth(u16::MAX), DecodeLimits::new());
    });
}

fn array(element: &[u8], count: usize) -> Vec<u8> {
    let mut bytes = vec![0xdd];
    bytes.extend((count as u32).to_be_bytes());
    bytes.extend(element.repeat(count));
    bytes
}

fn charged<T: DeserializeOwned>(bytes: &[u8]) -> usize {
    let Counted { charged, .. } = decode_counted::<T>(bytes, DecodeLimits::new()).unwrap();
    charged
}

#[test]
fn what_is_charged_is_the_memory_of_the_value() {
    assert_eq!(charged::<u64>(&[7]), 0);
    assert_eq!(charged::<Vec<u64>>(&array(&[7], 1000)), size_of::<Vec<u64>>() + 8 * 1000);
    let texts = size_of::<Vec<String>>() + 1000 * size_of::<String>() + 1000;
    assert_eq!(charged::<Vec<String>>(&array(b"\xa1x", 1000)), texts);
    let mut blob = vec![0xc6, 0, 1, 0, 0];
    blob.resize(5 + (1 << 16), 0);
    assert_eq!(charged::<Blob>(&blob), 1 << 16);
    // A place for the pointer, and the content behind it.
    let boxes = size_of::<Vec<Box<Expr>>>() + 1000 * size_of::<Expr>();
    assert_eq!(charged::<Vec<Box<Expr>>>(&array(b"\x81\xa3Num\x05", 1000)), boxes);
    // Fields are paid for with their struct, and the names of fields with nothing.
    let tuples = size_of::<Vec<(u8, u32)>>() + 1000 * size_of::<(u8, u32)>();
    assert_eq!(charged::<Vec<(u8, u32)>>(&array(&[0x92, 1, 2], 1000)), tuples);
    // A map allocates a node of eleven entries.
    assert_eq!(charged::<BTreeMap<u8, u64>>(&[0x81, 1, 2]), size_of::<BTreeMap<u8, u64>>() + 99);
    // Bytes where numbers are expected.
    let numbers = size_of::<Vec<u64>>() + (1 << 16) * 8;
    assert_eq!(charged::<Vec<u64>>(&blob), numbers);
}

#[test]
fn the_memory_of_a_value_has_a_limit_that_can_be_set() {
    let bytes = array(&[7], 1000);
    let memory = charged::<Vec<u64>>(&bytes);
    let limits = DecodeLimits::new().memory(memory);
    decode::<Vec<u64>>(&bytes, limits).unwrap();
    let error = decode::<Vec<u64>>(&bytes, limits.memory(memory - 1)).unwrap_err();
    assert!(error.is_decode() && error.message().contains("memory"), "{error}");
}

/// A node is copied for each level above it, while serde finds out what it is.
#[test]
fn values_that_serde_may_copy_at_each_level_are_charged_more() {
    let list = array(&[7], 1000);
    let shallow = charged::<serde_json::Value>(&list);
    let deep = charged::<serde_json::Value>(&nested(b"\x91", 100, &list));
    assert!(deep > 10 * shallow, "{shallow}, {deep}");
}
