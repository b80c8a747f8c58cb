//! What was read from a connection and not yet consumed, in no more memory than it needs.

use std::cell::RefCell;
use std::io;
use std::ops::Deref;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use super::buffer_pool::BufferPool;
use super::state::Consumed;
use crate::observe::ConnectionMetrics;
use crate::transport::Reader;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 << 10;
/// The usual value of [`ReadBuffer::small`].
const SMALL: usize = 4 << 10;
/// A payload's buffer grows to at most twice what has arrived, beyond this and the largest frame
/// that has come whole: a length that was only announced takes no memory.
const TRUSTED_BYTES: usize = 128 << 10;
thread_local! {
    /// Read buffers. A connection has one only while it has bytes in it.
    static READ_BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn take_read_buffer() -> BytesMut {
    READ_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(READ_BYTES))
}

fn give_read_buffer(mut buffer: BytesMut) {
    buffer.clear();
    if !buffer.try_reclaim(READ_BYTES) || buffer.capacity() > 2 * READ_BYTES {
        return;
    }
    READ_BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() < 4 {
            buffers.push(buffer);
        }
    });
}

/// The input of one connection. It has a large buffer only while bytes are in it.
pub(super) struct ReadBuffer {
    bytes: BytesMut,
    /// A frame of this size or more is read into a buffer of its own.
    large: usize,
    /// A remainder smaller than this is copied rather than keeping a whole read buffer.
    small: usize,
    /// Bytes taken from the socket at a time, unless a large frame is read.
    at_a_time: usize,
    /// Bytes there must be before there can be another frame.
    needed: usize,
    /// There may be whole frames: reading stopped because too much was in work.
    has_frames: bool,
    /// The largest frame that has come whole. So much is taken at once for the next one: it costs
    /// the peer no more than it has cost before.
    largest: usize,
    pool: BufferPool,
    /// Bytes that were read last.
    fresh: usize,
}

/// Input while it is looked at.
pub(super) enum Taken {
    Own(BytesMut),
    /// A large frame: whoever wants to keep its payload need not copy it.
    Shared(Bytes),
}

impl Taken {
    pub(super) fn shared(&self) -> Option<&Bytes> {
        match self {
            Self::Own(_) => None,
            Self::Shared(bytes) => Some(bytes),
        }
    }
}

impl Deref for Taken {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl ReadBuffer {
    /// `large`: the size from which the bytes of a frame count before they are read. No more than
    /// that is read without having been counted.
    pub(super) fn new(large: usize) -> Self {
        let crowded = large < READ_BYTES;
        Self {
            bytes: BytesMut::new(),
            large: large.min(READ_BYTES),
            small: if crowded { large + 1 } else { SMALL },
            at_a_time: if crowded { large } else { usize::MAX },
            needed: 0,
            has_frames: false,
            largest: 0,
            pool: BufferPool::default(),
            fresh: 0,
        }
    }

    /// There may be a frame that was not looked at.
    pub(super) fn has_frames(&self) -> bool {
        self.has_frames
    }

    /// There are enough bytes for another frame.
    pub(super) fn is_enough(&self) -> bool {
        self.bytes.len() >= self.needed
    }

    /// Whether a frame has begun and is incomplete.
    pub(super) fn is_begun(&self) -> bool {
        !self.bytes.is_empty() && !self.has_frames
    }

    /// The size of the next or current frame, if it is large.
    pub(super) fn large_frame(&self) -> Option<usize> {
        self.is_large().then_some(self.needed)
    }

    /// Bytes that were read last.
    pub(super) fn fresh(&self) -> usize {
        self.fresh
    }

    /// Bytes of buffers that are kept for the next large frame or still in use.
    pub(super) fn kept(&self) -> usize {
        self.pool.bytes()
    }

    /// More input, if there is: `Ok(false)` at its end.
    pub(super) fn poll_fill(
        &mut self,
        reader: &mut dyn Reader,
        metrics: &ConnectionMetrics,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        self.fresh = 0;
        if self.has_frames {
            return Poll::Ready(Ok(true));
        }
        let missing = self.needed.saturating_sub(self.bytes.len());
        // A large frame gets a buffer of its own, and nothing behind it is read into that.
        let limit = if self.is_large() { missing.max(1) } else { self.at_a_time };
        self.make_room(missing);
        let read = reader.poll_read(cx, &mut self.bytes, limit);
        if read.is_pending() {
            self.shrink();
        }
        read.map_ok(|bytes| {
            metrics.received(bytes);
            self.fresh = bytes;
            bytes > 0
        })
    }

    fn make_room(&mut self, missing: usize) {
        if self.is_large() {
            let trusted = TRUSTED_BYTES.max(self.bytes.len()).max(self.largest);
            // Doubled until the frame fits, this is hardly more than the frame: whoever keeps a part
            // of it keeps the whole buffer.
            let mut capacity = self.needed;
            while capacity > trusted {
                capacity = capacity.div_ceil(2);
            }
            if self.bytes.capacity() < capacity {
                let mut own = self.pool.take(capacity);
                own.extend_from_slice(&self.bytes);
                give_read_buffer(std::mem::replace(&mut self.bytes, own));
            }
            if self.bytes.capacity() == self.bytes.len() {
                self.bytes.reserve(missing.min(self.bytes.len()).max(1));
            }
            return;
        }
        if self.bytes.len() < self.small {
            // The small remainder moves into a large buffer, which goes back when there is nothing
            // to read: an idle connection has no buffer.
            let mut large = take_read_buffer();
            large.extend_from_slice(&self.bytes);
            self.bytes = large;
        }
        let room = self.bytes.capacity() - self.bytes.len();
        if missing > room || room == 0 {
            self.bytes.reserve(missing.max(READ_BYTES));
        }
    }

    /// What comes next is a large frame.
    fn is_large(&self) -> bool {
        self.needed >= self.large
    }

    /// The bytes, to be given back with [`put_back`](Self::put_back).
    pub(super) fn take(&mut self) -> Taken {
        let bytes = std::mem::take(&mut self.bytes);
        if self.is_large() { Taken::Shared(bytes.freeze()) } else { Taken::Own(bytes) }
    }

    /// Takes back what was not consumed.
    pub(super) fn put_back(&mut self, taken: Taken, consumed: Consumed) {
        if self.is_large() && consumed.bytes > 0 {
            self.largest = self.largest.max(self.needed);
        }
        self.bytes = match taken {
            Taken::Own(mut bytes) => {
                bytes.advance(consumed.bytes.min(bytes.len()));
                bytes
            }
            Taken::Shared(mut bytes) => {
                bytes.advance(consumed.bytes.min(bytes.len()));
                if bytes.is_empty() {
                    self.pool.keep(consumed.bytes, bytes);
                    BytesMut::new()
                } else {
                    // Somebody may have kept a part of it.
                    bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared))
                }
            }
        };
        self.needed = consumed.needed;
        self.has_frames = consumed.has_frames;
        self.shrink();
    }

    /// Frees the memory that is only kept for the next large frame.
    pub(super) fn shrink_pool(&mut self) {
        self.pool.clear();
    }

    fn shrink(&mut self) {
        if self.bytes.is_empty() {
            give_read_buffer(std::mem::take(&mut self.bytes));
        } else if self.bytes.len() < self.small
            && (self.needed <= READ_BYTES || self.large < READ_BYTES)
        {
            let small = BytesMut::from(&*self.bytes);
            give_read_buffer(std::mem::replace(&mut self.bytes, small));
        }
    }
}
