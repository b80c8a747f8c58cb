//! A frame as handlers see it.

use bytes::Bytes;

use super::header::{Header, Kind};
use super::output::KEPT_WHOLE;

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
    /// An inbound payload over this limit; it is discarded as it arrives. The header's `length`
    /// has its size.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

impl Body<'_> {
    /// The bytes; none of a payload that was too large.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::TooLarge { .. } => &[],
        }
    }
}

impl<'a> Frame<'a> {
    /// A frame whose payload is borrowed.
    pub fn new(header: Header, body: &'a [u8]) -> Self {
        Self { header, body: Body::Slice(body) }
    }

    /// A frame that takes a payload which is worth it, and borrows a small one.
    pub(crate) fn taking(header: Header, body: &'a mut Vec<u8>) -> Self {
        if body.len() < KEPT_WHOLE {
            return Self::new(header, body);
        }
        Self { header, body: Body::Owned(std::mem::take(body).into()) }
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
