//! [`DecodeLimits`]: bounds on the nesting and memory of a decoded value.

use crate::protocol::header::DEFAULT_MAX_PAYLOAD;

/// Maximum levels of nesting. Also the default.
///
/// Each level takes stack. With 256, types of usual size need less than 1 MiB in a debug build, and
/// tokio's threads have 2 MiB.
const MAX_DEPTH: u16 = 256;

/// Memory for each byte of the encoded value.
const MEMORY_PER_BYTE: usize = 4;

/// Limits for decoding one value: levels of nesting and bytes of memory.
///
/// The number of elements has no separate limit. An array or a map that announces more elements than
/// the remaining bytes can hold is refused before anything is allocated.
///
/// The limits do not protect two kinds of types, which serde reads again after they were decoded. An
/// untagged enum whose variants contain it in the same place takes time that doubles with each level
/// of nesting. An untagged enum that contains itself through options and newtypes alone recurses
/// without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct DecodeLimits {
    pub(super) depth: u16,
    /// None: it depends on the length of the bytes.
    memory: Option<usize>,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl DecodeLimits {
    /// The default limits.
    pub const fn new() -> Self {
        Self { depth: MAX_DEPTH, memory: None }
    }

    /// Sets the maximum levels of nesting. Default and maximum: 256; larger numbers count as 256.
    ///
    /// Structs, tuples, sequences, maps, enums, newtypes and options are one level each. The content
    /// of an enum's variant adds no level. A value of more than 128 bytes, without what it points to,
    /// counts as one level per 128 bytes, at most 32, since the stack for decoding grows with it.
    pub const fn depth(mut self, levels: u16) -> Self {
        self.depth = if levels < MAX_DEPTH { levels } else { MAX_DEPTH };
        self
    }

    /// Sets the maximum memory of the value, in bytes. Default: four times the encoded length, at
    /// least 32 MiB, which is four times the default limit of a payload.
    ///
    /// Memory is charged before it is allocated:
    ///
    /// - a sequence or map: the size of an element in memory times the number of elements. A map
    ///   counts as at least 11 entries, since a `BTreeMap` allocates as many at once;
    /// - a `Box`: the size of its content;
    /// - strings and bytes: their length.
    ///
    /// Values that are read without their type being known, as for untagged enums, are charged more
    /// with each level of nesting, since serde may copy them at each level. While a `Vec` grows, its
    /// real peak is up to three times the charge.
    pub const fn memory(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// The same limits, with at most so many bytes of memory.
    #[inline]
    pub(crate) const fn within(self, bytes: usize) -> Self {
        match self.memory {
            Some(memory) if memory <= bytes => self,
            _ => Self { memory: Some(bytes), ..self },
        }
    }

    #[inline]
    pub(super) fn memory_for(self, encoded: usize) -> usize {
        match self.memory {
            Some(memory) => memory,
            None => encoded.max(DEFAULT_MAX_PAYLOAD).saturating_mul(MEMORY_PER_BYTE),
        }
    }
}
