//! Types of all shapes that serde has, and random values of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};

use serde::{Deserialize, Serialize};

use crate::protocol::Blob;
use crate::protocol::payload::Defaulted;

/// Equal maps look equal.
type SameOrder = BuildHasherDefault<DefaultHasher>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Newtype(Box<Zoo>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pair(u8, Option<Box<Zoo>>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sparse {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    note: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Flat {
    id: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, Untagged>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<Untagged>),
    Fields { p: Option<u8>, q: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tag")]
pub(super) enum Internal {
    Fields { x: i32, y: String },
    Unit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub(super) enum Adjacent {
    Number(i32),
    Fields { s: String },
    Unit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Zoo {
    Nothing,
    Number(i64),
    Two(i8, u16),
    Numbers { a: u8, b: i16, c: i32, d: u32, e: u64 },
    Wide(i128, u128),
    Char(char),
    Floats(f32, f64),
    Text(String),
    Bytes(Blob),
    Octets(Vec<u8>),
    Optional(Option<Box<Zoo>>),
    Newtype(Newtype),
    Pair(Pair),
    Unit(Unit),
    Bool(bool),
    Map(BTreeMap<String, Zoo>),
    Hash(HashMap<u16, (bool, Option<String>), SameOrder>),
    List(Vec<Zoo>),
    Nil(()),
    Flat(Flat),
    Untagged(Untagged),
    Internal(Internal),
    Adjacent(Adjacent),
    Sparse(Sparse),
    Array([i16; 5]),
    Many([u8; 20]),
    Result(Result<u8, String>),
    Defaulted(Defaulted<u32>),
}

/// Pseudorandom numbers: the same ones for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.bits() >> 11) as usize % end
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Of each width as often as of any other.
    fn unsigned(&mut self) -> u64 {
        let shift = self.below(64);
        self.bits() >> shift
    }

    fn signed(&mut self) -> i64 {
        let value = self.unsigned() as i64;
        if self.coin() { value } else { value.wrapping_neg() }
    }

    fn text(&mut self) -> String {
        let length = match self.below(20) {
            0 => 300,
            1 => 255,
            2 => 31,
            3 => 32,
            4 if self.below(40) == 0 => 70_000,
            other => other,
        };
        let letter = |random: &mut Self| match random.below(9) {
            0 => 'ß',
            other => char::from(b'a' + other as u8),
        };
        (0..length).map(|_| letter(self)).collect()
    }

    fn untagged(&mut self, depth: usize) -> Untagged {
        match self.below(if depth == 0 { 2 } else { 4 }) {
            0 => Untagged::Number(self.signed()),
            1 => Untagged::Text(self.text()),
            2 => Untagged::List((0..self.below(4)).map(|_| self.untagged(depth - 1)).collect()),
            _ => Untagged::Fields { p: self.coin().then_some(5), q: self.text() },
        }
    }

    fn sparse(&mut self) -> Sparse {
        let name = self.coin().then(|| self.text());
        Sparse { id: self.unsigned(), name, note: self.text() }
    }

    /// A value that is nested at most so deep.
    pub(super) fn value(&mut self, depth: usize) -> Zoo {
        match self.below(if depth == 0 { 19 } else { 28 }) {
            0 => Zoo::Nothing,
            1 => Zoo::Number(self.signed()),
            2 => Zoo::Two(self.signed() as i8, self.unsigned() as u16),
            3 => Zoo::Numbers {
                a: self.unsigned() as u8,
                b: self.signed() as i16,
                c: self.signed() as i32,
                d: self.unsigned() as u32,
                e: self.unsigned(),
            },
            4 => {
                let wide =
                    (u128::from(self.bits()) << 64 | u128::from(self.bits())) >> self.below(128);
                Zoo::Wide(wide as i128, wide)
            }
            5 => Zoo::Char(char::from_u32(self.unsigned() as u32).unwrap_or('ß')),
            6 => Zoo::Floats(
                f32::from_bits(self.bits() as u32 & 0x7f7f_ffff),
                self.signed() as f64 / 3.0,
            ),
            7 => Zoo::Text(self.text()),
            8 => Zoo::Bytes(Blob::from(self.text().into_bytes())),
            9 => Zoo::Octets(self.text().into_bytes()),
            10 => Zoo::Bool(self.coin()),
            11 => Zoo::Unit(Unit),
            12 => Zoo::Nil(()),
            13 => Zoo::Sparse(self.sparse()),
            14 => Zoo::Array([(); 5].map(|()| self.signed() as i16)),
            15 => Zoo::Many([(); 20].map(|()| self.unsigned() as u8)),
            16 => Zoo::Result(if self.coin() { Ok(7) } else { Err(self.text()) }),
            17 => Zoo::Defaulted(Defaulted(self.unsigned() as u32)),
            18 => Zoo::Hash(
                (0..self.below(5))
                    .map(|_| {
                        let text = self.coin().then(|| self.text());
                        (self.unsigned() as u16, (self.coin(), text))
                    })
                    .collect(),
            ),
            19 => Zoo::Optional(self.coin().then(|| Box::new(self.value(depth - 1)))),
            20 => Zoo::Newtype(Newtype(Box::new(self.value(depth - 1)))),
            21 => {
                let inner = self.coin().then(|| Box::new(self.value(depth - 1)));
                Zoo::Pair(Pair(self.unsigned() as u8, inner))
            }
            22 => Zoo::Map(
                (0..self.below(20)).map(|_| (self.text(), self.value(depth - 1))).collect(),
            ),
            23 => Zoo::List((0..self.below(20)).map(|_| self.value(depth - 1)).collect()),
            24 => Zoo::Flat(Flat {
                id: 1,
                rest: (0..self.below(3)).map(|_| (self.text(), self.untagged(1))).collect(),
            }),
            25 => Zoo::Untagged(self.untagged(depth)),
            26 => Zoo::Internal(match self.coin() {
                true => Internal::Unit,
                false => Internal::Fields { x: self.signed() as i32, y: self.text() },
            }),
            _ => Zoo::Adjacent(match self.below(3) {
                0 => Adjacent::Unit,
                1 => Adjacent::Number(self.signed() as i32),
                _ => Adjacent::Fields { s: self.text() },
            }),
        }
    }
}
