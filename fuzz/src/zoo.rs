//! Types of every shape that serde knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpc_runtime::Blob;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plain {
    flag: bool,
    small: u8,
    signed: i64,
    large: u64,
    single: f32,
    double: f64,
    letter: char,
    text: String,
    #[serde(default)]
    list: Vec<u16>,
    maybe: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Expr {
    Num(i64),
    Neg(Box<Expr>),
    Add(Box<Expr>, Box<Expr>),
    Let { name: String, value: Option<Box<Expr>> },
    Nothing,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Nest(Vec<Nest>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Meters(u32);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Unit;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mixed(u8, String, (i8, i16), [u32; 3], Unit, Meters);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Maps {
    words: BTreeMap<String, Vec<Meters>>,
    numbers: BTreeMap<Meters, Option<bool>>,
    set: BTreeSet<i16>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Defaults {
    one: u64,
    two: String,
    three: Vec<Defaults>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { one: 1, two: "two".into(), three: Vec::new() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bytes {
    array: Vec<u8>,
    blob: Blob,
    behind: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wide {
    signed: i128,
    unsigned: u128,
    time: Duration,
    result: Result<u8, String>,
    twice: Option<Option<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Flat {
    first: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Untagged {
    Number(u64),
    Text(String),
    Point { x: i32, y: i32 },
    List(Vec<Untagged>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Tagged {
    Empty,
    Point { x: i32, y: i32 },
    Plain(Plain),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "content")]
pub(crate) enum Adjacent {
    Empty,
    Number(u64),
    Pair(u8, u8),
    Point { x: i32, y: i32 },
}
