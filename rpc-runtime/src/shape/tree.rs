//! [`Shape`]: the tree of the parts of a type.

use std::fmt;

use crate::descriptor::{FNV_OFFSET, fnv1a};

/// The serde name of a stream among the values of a call; see [`Streaming`](crate::Streaming). Its
/// shape is that of its items.
pub(crate) const STREAM: &str = "rpc_runtime::Streaming";

/// The form of a type on the wire: field names, their order and types, variants. Type names and
/// newtypes are not part of it, since the wire does not contain them.
///
/// The text is canonical: two shapes are equal if and only if their texts are, on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Not seen yet. A complete shape contains none.
    Unseen,
    /// A value without parts, with the dummy that was read or written.
    Scalar(&'static str, u64),
    Option(Box<Self>),
    Seq(Box<Self>),
    Map(Box<(Self, Self)>),
    Tuple(Vec<Self>),
    Struct(Vec<(&'static str, Self)>),
    /// All variants with their contents: the scalar [`UNIT_VARIANT`], a `Newtype`, a `Tuple` or a
    /// `Struct`.
    Enum(Vec<(&'static str, Self)>),
    /// The content of a newtype variant.
    Newtype(Box<Self>),
    /// A reference to the shape this many levels up. The inner shape is not part of the text.
    Recursion(usize, Box<Self>),
    /// The items of a stream.
    Stream(Box<Self>),
}

/// The kind of a variant without content.
pub(super) const UNIT_VARIANT: &str = "variant";

impl Shape {
    /// FNV-1a of the text, never 0. Ends with equal fingerprints can use compact arrays.
    pub(crate) fn fingerprint(&self) -> u64 {
        let text = self.to_string();
        fnv1a(FNV_OFFSET, text.as_bytes(), text.len()).max(1)
    }

    /// Whether all parts were seen.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Unseen => false,
            Self::Scalar(..) | Self::Recursion(..) => true,
            Self::Option(inner) | Self::Seq(inner) | Self::Newtype(inner) | Self::Stream(inner) => {
                inner.is_complete()
            }
            Self::Map(entry) => entry.0.is_complete() && entry.1.is_complete(),
            Self::Tuple(parts) => parts.iter().all(Self::is_complete),
            Self::Struct(parts) | Self::Enum(parts) => {
                parts.iter().all(|(_, part)| part.is_complete())
            }
        }
    }

    /// Adds the result of another pass. Fails if the two contradict each other.
    pub(super) fn merge(&mut self, seen: Self) -> Result<(), Contradiction> {
        match (self, seen) {
            (_, Self::Unseen) => Ok(()),
            (unseen @ Self::Unseen, seen) => {
                *unseen = seen;
                Ok(())
            }
            (Self::Scalar(one, _), Self::Scalar(other, _)) if *one == other => Ok(()),
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

    /// Whether `self`, the shape of a read value, has the same form as `written`, the shape of the
    /// same value when written. `dummies` are the values that were read.
    pub(super) fn matches(&self, written: &Self, dummies: &[(&'static str, u64)]) -> bool {
        let all = |read: &[(&'static str, Self)], written: &[(&'static str, Self)]| {
            read.len() == written.len()
                && read.iter().zip(written).all(|((name, read), (written_name, written))| {
                    name == written_name && read.matches(written, dummies)
                })
        };
        match (self, written) {
            // Not written this time; see `skip_field`, and `None`.
            (_, Self::Unseen) => true,
            (Self::Recursion(_, read), written) => read.matches(written, dummies),
            (Self::Scalar(read, dummy), Self::Scalar(written, value)) => {
                // A type may convert its dummy to another value. But if that is the dummy of
                // another place, values are read and written in different orders.
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
            // `written` has only the variant that was written.
            (Self::Enum(read), Self::Enum(written)) => written.iter().all(|(name, written)| {
                read.iter().any(|(known, read)| known == name && read.matches(written, dummies))
            }),
            _ => false,
        }
    }
}

/// Two passes saw different shapes in the same place.
#[derive(Debug)]
pub(super) struct Contradiction;

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen => f.write_str("?"),
            Self::Scalar(kind, _) => f.write_str(kind),
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
                        Self::Scalar(UNIT_VARIANT, _) => write!(f, "{}", Name(name))?,
                        Self::Newtype(inner) => write!(f, "{} = {inner}", Name(name))?,
                        content => write!(f, "{}{content}", Name(name))?,
                    }
                }
                f.write_str("}")
            }
        }
    }
}

/// Writes a tuple such as `(str, u8*4)`, with repeated parts as a count.
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

/// The name of a field or variant. Serde allows any text; a text that is not a word is quoted.
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
