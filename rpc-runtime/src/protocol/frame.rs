//! A frame as handlers see it.

use std::sync::OnceLock;

use bytes::Bytes;

use super::blob::KEPT_WHOLE;
use super::header::{Header, Kind};
use super::output::Output;

/// A header and its payload.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// The front. On the way out, `length` is filled in by the codec.
    pub header: Header,
    /// What follows it.
    pub body: Body<'a>,
}

/// The payload of a frame.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// A part of the bytes that were read, or of the bytes to be written.
    Slice(&'a [u8]),
    /// Bytes of its own, such as those that a handler put in the place of the original ones.
    Owned(Bytes),
    /// An outbound payload with large parts that are not to be copied.
    Pieces(Box<Pieces>),
    /// An inbound payload over this limit; it is discarded as it arrives. The header's `length`
    /// has its size.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

impl Body<'_> {
    /// The bytes; none of a payload that was too large. Those of one in pieces are copied together
    /// when they are first asked for.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Pieces(pieces) => pieces.whole(),
            Self::TooLarge { .. } => &[],
        }
    }

    /// How many bytes there are; none of a payload that was too large.
    pub fn len(&self) -> usize {
        match self {
            Self::Slice(bytes) => bytes.len(),
            Self::Owned(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.output.len(),
            Self::TooLarge { .. } => 0,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Output> for Body<'_> {
    fn from(output: Output) -> Self {
        match output.into_small() {
            Ok(bytes) => Self::Owned(bytes.into()),
            Err(output) => Self::Pieces(Box::new(Pieces { output, whole: OnceLock::new() })),
        }
    }
}

/// A payload in several pieces.
#[derive(Clone, Debug)]
pub struct Pieces {
    output: Output,
    whole: OnceLock<Bytes>,
}

impl Pieces {
    /// The pieces.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// All of it in one piece. Copied when it is first asked for, then kept.
    pub fn whole(&self) -> &Bytes {
        self.whole.get_or_init(|| self.output.to_vec().into())
    }
}

impl<'a> Frame<'a> {
    /// A frame whose payload is borrowed.
    pub fn new(header: Header, body: &'a [u8]) -> Self {
        Self { header, body: Body::Slice(body) }
    }

    /// A frame that takes a payload which is worth it, and borrows a small one.
    pub(crate) fn taking(header: Header, payload: &'a mut Output) -> Self {
        if payload.len() < KEPT_WHOLE {
            // What is so small is all in the one buffer.
            return Self::new(header, payload.small_mut());
        }
        Self { header, body: std::mem::take(payload).into() }
    }

    /// A frame that is nothing but its header.
    pub fn bare(header: Header) -> Frame<'static> {
        Frame { header, body: Body::Slice(&[]) }
    }

    /// A frame of this kind that is nothing but its header.
    pub fn of_kind(kind: Kind) -> Frame<'static> {
        Self::bare(Header::new(kind))
    }

    /// The same frame with a payload of its own.
    pub fn into_owned(self) -> Frame<'static> {
        let body = match self.body {
            Body::Slice([]) => Body::Slice(&[]),
            Body::Slice(bytes) => Body::Owned(Bytes::copy_from_slice(bytes)),
            Body::Owned(bytes) => Body::Owned(bytes),
            Body::Pieces(pieces) => Body::Pieces(pieces),
            Body::TooLarge { limit } => Body::TooLarge { limit },
        };
        Frame { header: self.header, body }
    }
}

/// Frames are equal if they mean the same, wherever their payload is kept.
impl PartialEq for Frame<'_> {
    fn eq(&self, other: &Self) -> bool {
        let too_large = |frame: &Self| matches!(frame.body, Body::TooLarge { .. });
        self.header == other.header
            && too_large(self) == too_large(other)
            && self.body.as_slice() == other.body.as_slice()
    }
}
