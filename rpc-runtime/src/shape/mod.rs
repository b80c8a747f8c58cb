//! What a type looks like on the wire: [`Shape`], found out by tracing its serde implementations.
//!
//! Named maps are read by old and new versions of a type, compact arrays only by the very same
//! one. Two ends whose shapes of a method's arguments and result are equal may use compact; a
//! [fingerprint](Shape::fingerprint) of the shapes tells. Whatever cannot be traced whole has no
//! shape, and is written as named maps.
//!
//! [`trace`] has the passes: a type is deserialized from dummy values, again and again, until all
//! of it was seen, and each of its hints is noted. [`record`] looks at what serializing the result
//! writes, since compact goes by the positions of what is written.

mod dummy;
mod record;
mod trace;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptor::{FNV_OFFSET, fnv1a};

/// A stream among the values of a call; see [`Streaming`](crate::Streaming). A traced one stands
/// for its items.
pub(crate) const STREAM: &str = "rpc_runtime::Streaming";

/// Longest text of a shape, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// What a type looks like on the wire: field names, their order and types, variants. Names of types
/// are not part of it, nor are newtypes, since they leave no trace there.
///
/// Its text is canonical: equal texts mean equal shapes, on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Not seen yet. No part of a whole shape.
    Hole,
    /// A value without parts; with the dummy that was given or written.
    Leaf(&'static str, u64),
    Option(Box<Self>),
    Seq(Box<Self>),
    Map(Box<(Self, Self)>),
    Tuple(Vec<Self>),
    Struct(Vec<(&'static str, Self)>),
    /// All variants, and what each contains: the leaf [`UNIT_VARIANT`], a `Newtype`, a `Tuple`, or
    /// a `Struct`.
    Enum(Vec<(&'static str, Self)>),
    /// The content of a newtype variant.
    Newtype(Box<Self>),
    /// The shape that many levels up, again. With what was seen here, which is no part of the text.
    Recursion(usize, Box<Self>),
    /// The items of a stream.
    Stream(Box<Self>),
}

/// The content of a variant without content.
const UNIT_VARIANT: &str = "variant";

/// The shape of `T`; none if it cannot be traced whole.
pub(crate) fn of<T: Serialize + DeserializeOwned>() -> Option<Shape> {
    let shape = trace::trace::<T>()?;
    (shape.to_string().len() <= MAX_TEXT).then_some(shape)
}

impl Shape {
    /// FNV-1a of the text, never 0. Equal on both ends: they may use compact.
    pub(crate) fn fingerprint(&self) -> u64 {
        let text = self.to_string();
        fnv1a(FNV_OFFSET, text.as_bytes(), text.len()).max(1)
    }

    /// Nothing of it is missing.
    fn is_whole(&self) -> bool {
        match self {
            Self::Hole => false,
            Self::Leaf(..) | Self::Recursion(..) => true,
            Self::Option(inner) | Self::Seq(inner) | Self::Newtype(inner) | Self::Stream(inner) => {
                inner.is_whole()
            }
            Self::Map(entry) => entry.0.is_whole() && entry.1.is_whole(),
            Self::Tuple(parts) => parts.iter().all(Self::is_whole),
            Self::Struct(parts) | Self::Enum(parts) => {
                parts.iter().all(|(_, part)| part.is_whole())
            }
        }
    }

    /// Adds what another pass has seen. An error if the two cannot be of one type.
    fn merge(&mut self, seen: Self) -> Result<(), Contradiction> {
        match (self, seen) {
            (_, Self::Hole) => Ok(()),
            (hole @ Self::Hole, seen) => {
                *hole = seen;
                Ok(())
            }
            (Self::Leaf(one, _), Self::Leaf(other, _)) if *one == other => Ok(()),
            (Self::Recursion(one, _), Self::Recursion(other, _)) if *one == other => Ok(()),
            (Self::Option(one), Self::Option(other))
            | (Self::Seq(one), Self::Seq(other))
            | (Self::Newtype(one), Self::Newtype(other))
            | (Self::Stream(one), Self::Stream(other)) => one.merge(*other),
            (Self::Map(one), Self::Map(other)) => {
                let (key, value) = *other;
                one.0.merge(key)?;
                one.1.merge(value)
            }
            (Self::Tuple(one), Self::Tuple(other)) if one.len() == other.len() => {
                one.iter_mut().zip(other).try_for_each(|(one, other)| one.merge(other))
            }
            (Self::Struct(one), Self::Struct(other)) | (Self::Enum(one), Self::Enum(other))
                if one.len() == other.len() =>
            {
                one.iter_mut().zip(other).try_for_each(|((name, one), (other_name, other))| {
                    if *name == other_name { one.merge(other) } else { Err(Contradiction) }
                })
            }
            _ => Err(Contradiction),
        }
    }

    /// Whether `self`, which a pass has read, is what was `written` of it. `dummies` are the values
    /// that were read.
    fn matches(&self, written: &Self, dummies: &[(&'static str, u64)]) -> bool {
        let all = |read: &[(&'static str, Self)], written: &[(&'static str, Self)]| {
            read.len() == written.len()
                && read.iter().zip(written).all(|((name, read), (written_name, written))| {
                    name == written_name && read.matches(written, dummies)
                })
        };
        match (self, written) {
            // Left out this time; see `skip_field`, and `None`.
            (_, Self::Hole) => true,
            (Self::Recursion(_, read), written) => read.matches(written, dummies),
            (Self::Leaf(read, dummy), Self::Leaf(written, value)) => {
                // A type may make another value of the dummy. But if it is the dummy of another
                // place, values are read in another order than they are written.
                read == written && (dummy == value || !dummies.contains(&(*written, *value)))
            }
            (Self::Option(read), Self::Option(written))
            | (Self::Seq(read), Self::Seq(written))
            | (Self::Newtype(read), Self::Newtype(written))
            | (Self::Stream(read), Self::Stream(written)) => read.matches(written, dummies),
            (Self::Map(read), Self::Map(written)) => {
                read.0.matches(&written.0, dummies) && read.1.matches(&written.1, dummies)
            }
            (Self::Tuple(read), Self::Tuple(written)) => {
                read.len() == written.len()
                    && read.iter().zip(written).all(|(read, part)| read.matches(part, dummies))
            }
            (Self::Struct(read), Self::Struct(written)) => all(read, written),
            // Of all the variants, the one that is written.
            (Self::Enum(read), Self::Enum(written)) => written.iter().all(|(name, written)| {
                read.iter().any(|(known, read)| known == name && read.matches(written, dummies))
            }),
            _ => false,
        }
    }
}

/// Two passes saw different shapes in one place.
#[derive(Debug)]
struct Contradiction;

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hole => f.write_str("?"),
            Self::Leaf(kind, _) => f.write_str(kind),
            Self::Option(inner) => write!(f, "option<{inner}>"),
            Self::Seq(inner) => write!(f, "seq<{inner}>"),
            Self::Map(entry) => write!(f, "map<{}, {}>", entry.0, entry.1),
            Self::Stream(inner) => write!(f, "stream<{inner}>"),
            Self::Newtype(inner) => write!(f, "{inner}"),
            Self::Recursion(up, _) => write!(f, "^{up}"),
            Self::Tuple(parts) => tuple(parts, f),
            Self::Struct(fields) => {
                f.write_str("{")?;
                for (at, (name, field)) in fields.iter().enumerate() {
                    separate(at, f)?;
                    write!(f, "{}: {field}", Name(name))?;
                }
                f.write_str("}")
            }
            Self::Enum(variants) => {
                f.write_str("enum{")?;
                for (at, (name, content)) in variants.iter().enumerate() {
                    separate(at, f)?;
                    match content {
                        Self::Leaf(UNIT_VARIANT, _) => write!(f, "{}", Name(name))?,
                        Self::Newtype(inner) => write!(f, "{} = {inner}", Name(name))?,
                        content => write!(f, "{}{content}", Name(name))?,
                    }
                }
                f.write_str("}")
            }
        }
    }
}

/// `(str, u8*4)`: an array of many values need not be long.
fn tuple(parts: &[Shape], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let texts: Vec<String> = parts.iter().map(Shape::to_string).collect();
    f.write_str("(")?;
    for (at, run) in texts.chunk_by(|one, other| one == other).enumerate() {
        separate(at, f)?;
        f.write_str(run.first().map_or("", String::as_str))?;
        if run.len() > 1 {
            write!(f, "*{}", run.len())?;
        }
    }
    f.write_str(")")
}

fn separate(at: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if at > 0 { f.write_str(", ") } else { Ok(()) }
}

/// A field's or variant's name. serde lets it be any text; what is no word is quoted.
struct Name<'n>(&'n str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !self.0.is_empty() && self.0.bytes().all(is_word) {
            return f.write_str(self.0);
        }
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
