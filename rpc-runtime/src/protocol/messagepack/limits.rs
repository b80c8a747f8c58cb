//! [`DecodeLimits`]: what a value may cost.

use crate::protocol::DEFAULT_MAX_PAYLOAD;

/// The most levels of nesting. Also the default.
///
/// Each level takes stack. With 256, types of usual size need less than 1 MiB in a debug build, and
/// tokio's threads have 2 MiB.
const MAX_DEPTH: u16 = 256;

/// Memory for each byte of the encoded value.
const MEMORY_PER_BYTE: usize = 4;

/// What decoding a value may cost.
///
/// The number of elements has no limit of its own: an array or a map that claims more elements than
/// the bytes behind it can hold is refused before anything is allocated.
///
/// Two kinds of types are beyond any limit, since serde reads them again after they were decoded: an
/// untagged enum whose variants contain it in the same place takes time that doubles with each level
/// of nesting, and one that contains itself through options and newtypes alone recurses without end.
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

    /// Limits the nesting of values, in levels. Default, and the most that can be set: 256.
    ///
    /// Structs, tuples, sequences, maps, enums, newtypes and options are a level each. The content
    /// of an enum's variant is no further level. A value that is larger than 128 bytes, without
    /// what it points to, counts as several, since the stack that decoding needs grows with it: as
    /// one for each 128 bytes, at most 32.
    pub const fn depth(mut self, levels: u16) -> Self {
        self.depth = if levels < MAX_DEPTH { levels } else { MAX_DEPTH };
        self
    }

    /// Limits the memory of the value, in bytes. Default: four times the length of the encoded
    /// value, but at least 32 MiB, which is four times the default limit of a payload.
    ///
    /// It is charged before it is allocated: the size of an element, as Rust lays it out, times the
    /// number of elements, for each sequence and map (a map counts as 11 entries at least, since a
    /// `BTreeMap` allocates as many at once); the content of a `Box`; and the length of strings and
    /// bytes. Values that are read without their type being known, as for untagged enums, are
    /// charged more the deeper they are nested, since serde may copy them at each level. While a
    /// `Vec` grows, its real peak is up to three times what was charged.
    pub const fn memory(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    #[inline]
    pub(super) fn memory_for(self, encoded: usize) -> usize {
        match self.memory {
            Some(memory) => memory,
            None => encoded.max(DEFAULT_MAX_PAYLOAD).saturating_mul(MEMORY_PER_BYTE),
        }
    }
}
