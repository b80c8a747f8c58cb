//! The channel pipeline: a state machine without I/O and without a clock.
//!
//! Bytes in, events out; messages in, bytes out; time is an argument. Whoever holds the channel's
//! lock runs it. The rules are Netty's (`DefaultChannelPipeline`); where they differ, the method
//! says so.
//!
//! ```text
//!            head                                              tail
//! bytes ──▶ codec ──▶ handler ──▶ handler ──▶ handler ──▶ Tail (calls, requests)
//! bytes ◀── codec ◀── handler ◀── handler ◀── handler ◀── write
//! ```
//!
//! Traversal is a flat loop, one step per handler. What a handler asks for while it is called is
//! queued and done when it has returned, so that no handler is borrowed twice.

mod apply;
mod change;
mod cursor;
mod embedded;
mod handler;
mod outbound;
mod traverse;

use std::any::Any;
use std::time::Instant;

pub use embedded::EmbeddedChannel;
pub use handler::{Change, ChannelContext, ChannelHandler, Flow, Handled};

use self::cursor::Cursor;
use self::handler::Op;
use self::outbound::Outbound;
use crate::error::RpcError;
use crate::protocol::{Codec, Decoded, Frame, Header, Output};

/// Where inbound events end up that no handler stopped.
pub trait Tail<'a> {
    /// A frame.
    fn read(&mut self, frame: Frame<'a>);

    /// Whether more frames are welcome now. While not, the pipeline leaves its input alone.
    fn accepts(&self) -> bool {
        true
    }

    /// An event that a handler made.
    fn user_event(&mut self, event: Box<dyn Any + Send>) {
        drop(event);
    }

    /// A write failed that a handler had asked for, so that nobody waits for its outcome.
    fn write_failed(&mut self, header: &Header, error: RpcError) {
        let _ = (header, error);
    }
}

/// When a connection counts as congested: above `high` bytes that wait to be written, until they
/// are below `low`. Default 64 KiB and 32 KiB, Netty's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Not writable above this many bytes.
    pub high: usize,
    /// Writable again below this many bytes.
    pub low: usize,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high: 64 << 10, low: 32 << 10 }
    }
}

struct Entry {
    name: String,
    /// Tells a handler from another one that was later given the same name.
    serial: u64,
    handler: Box<dyn ChannelHandler>,
}

/// The handlers of one connection, and the bytes they want written.
pub struct Pipeline {
    codec: Box<dyn Codec>,
    entries: Vec<Entry>,
    next_serial: u64,
    ops: Vec<Op>,
    /// Traversals that wait for the ops of the handler they stand at.
    cursors: Vec<Cursor>,
    /// Handlers answered one another without end: nothing more is done for them until all have
    /// returned.
    runaway: bool,
    /// Bytes that the codec needs to go on, if it has seen all that there is.
    needed: usize,
    out: Outbound,
    /// Bytes encoded and not yet taken by the operating system.
    pending_bytes: usize,
    watermarks: Watermarks,
    writable: bool,
    auto_read: bool,
    closing: Option<RpcError>,
}

impl Pipeline {
    /// A pipeline with no handlers.
    pub fn new(codec: impl Codec, watermarks: Watermarks) -> Self {
        Self {
            codec: Box::new(codec),
            entries: Vec::new(),
            next_serial: 0,
            ops: Vec::new(),
            cursors: Vec::new(),
            runaway: false,
            needed: 0,
            out: Outbound::default(),
            pending_bytes: 0,
            watermarks,
            writable: true,
            auto_read: true,
            closing: None,
        }
    }

    /// The names of the handlers, head to tail.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Whether the bytes that wait to be written are under the high watermark.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// When it counts as congested.
    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    /// Bytes that are encoded and not yet taken by the operating system.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether bytes are to be taken from the socket.
    pub fn auto_read(&self) -> bool {
        self.auto_read
    }

    /// Why the channel is to be closed, if it is. What is in the output still leaves first.
    pub fn closing(&self) -> Option<&RpcError> {
        self.closing.as_ref()
    }

    // ---- inbound ---------------------------------------------------------------------------

    /// The connection is open.
    pub fn channel_active<'a>(&mut self, now: Instant, tail: &mut dyn Tail<'a>) {
        self.inbound(0, now, tail, |handler, ctx| handler.channel_active(ctx));
    }

    /// The connection is closed, because of `cause`.
    pub fn channel_inactive<'a>(
        &mut self,
        cause: &RpcError,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        self.inbound(0, now, tail, |handler, ctx| handler.channel_inactive(ctx, cause));
    }

    /// Takes the whole frames from the front of `input` and says how many bytes they took up. The
    /// rest is to be shown again with more behind it; [`needed`](Self::needed) says how much.
    ///
    /// Stops early when the tail accepts no more, or when the channel is to be closed.
    pub fn read<'a>(&mut self, input: &'a [u8], now: Instant, tail: &mut dyn Tail<'a>) -> usize {
        let mut at = 0;
        self.needed = 0;
        while self.closing.is_none() && tail.accepts() {
            let Some(rest) = input.get(at..) else { break };
            match self.codec.decode(rest) {
                Ok(Decoded::Frame { consumed: 0, .. } | Decoded::Discarded { consumed: 0 }) => {
                    let stuck = RpcError::internal("the codec takes nothing from its input");
                    self.closing.get_or_insert(stuck);
                }
                Ok(Decoded::Frame { frame, consumed }) => {
                    at += consumed;
                    self.fire_read(0, frame, now, tail);
                }
                Ok(Decoded::Incomplete { needed }) => {
                    self.needed = needed;
                    break;
                }
                Ok(Decoded::Discarded { consumed }) => at += consumed,
                Ok(Decoded::Switch(codec)) => self.codec = codec,
                Err(error) => {
                    self.exception(0, &error, now, tail);
                    // Whatever the handlers think of it: there is no next frame to be found.
                    self.closing.get_or_insert(error);
                }
            }
        }
        at.min(input.len())
    }

    /// How many bytes from the front of `input`, which the last [`read`](Self::read) left over,
    /// there must be before another one is of use.
    pub fn needed(&self, input: &[u8]) -> usize {
        // The codec must not be asked: to decode is to move on.
        self.needed.max(input.len())
    }

    /// The bytes that arrived together have all been shown.
    pub fn read_complete<'a>(&mut self, now: Instant, tail: &mut dyn Tail<'a>) {
        self.inbound(0, now, tail, |handler, ctx| handler.channel_read_complete(ctx));
    }

    /// Sends an event through all handlers.
    pub fn user_event<'a>(
        &mut self,
        event: Box<dyn Any + Send>,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        self.fire_user_event(0, event, now, tail);
    }

    /// The operating system took `bytes` bytes of the output.
    pub fn written<'a>(&mut self, bytes: usize, now: Instant, tail: &mut dyn Tail<'a>) {
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        self.inbound(0, now, tail, |handler, ctx| handler.write_complete(ctx, bytes));
        // A low watermark of 0 means "once nothing is pending".
        if !self.writable && self.pending_bytes < self.watermarks.low.max(1) {
            self.writability_changed(true, now, tail);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.handler.poll_timeout()).min()
    }

    /// Runs the timers that are due at `now`; that one fails does not keep the others from it.
    pub fn handle_timeout<'a>(&mut self, now: Instant, tail: &mut dyn Tail<'a>) {
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            let serial = entry.serial;
            let (handled, mut cursor) = self.call(at, now, tail, |handler, ctx| {
                let due = handler.poll_timeout().is_some_and(|due| due <= now);
                if due { handler.handle_timeout(ctx) } else { Ok(Flow::Next) }
            });
            if let Err(error) = handled {
                cursor = self.while_at(cursor, |pipeline| {
                    pipeline.failed(serial, cursor, &error, now, tail);
                });
            }
            at = cursor.inbound;
        }
    }

    // ---- outbound --------------------------------------------------------------------------

    /// Writes `frame`, starting at the tail.
    ///
    /// # Errors
    /// A handler refused it or it is over the payload limit. Nothing was written; the channel goes
    /// on.
    #[inline]
    pub fn write<'a>(
        &mut self,
        mut frame: Frame<'_>,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) -> Result<(), RpcError> {
        self.write_before(self.entries.len(), &mut frame, now, tail)
    }

    /// Closes the channel, starting at the tail.
    pub fn close<'a>(&mut self, cause: RpcError, now: Instant, tail: &mut dyn Tail<'a>) {
        let mut before = self.entries.len();
        while let Some(at) = before.checked_sub(1) {
            match self.call(at, now, tail, |handler, ctx| handler.close(ctx, &cause)) {
                (Ok(Flow::Next), cursor) => before = cursor.outbound,
                (Ok(Flow::Stop), _) => return,
                // A close that fails must still close.
                (Err(_), _) => break,
            }
        }
        self.closing.get_or_insert(cause);
    }

    /// The bytes to be written next, if any, in exchange for an empty buffer. Heartbeats come first;
    /// of much that is queued a part of 256 KiB or one frame, so that a heartbeat may come next.
    pub fn take_output(&mut self, empty: Output) -> Output {
        self.out.take(empty)
    }

    /// Gives back memory that is only kept for what may come.
    pub(crate) fn shrink(&mut self) {
        self.out.shrink();
        if self.cursors.is_empty() {
            self.cursors = Vec::new();
            self.ops = Vec::new();
        }
    }

    /// Nothing that was encoded will be written.
    pub(crate) fn forget_pending(&mut self) {
        self.pending_bytes = 0;
    }

    /// Bytes of heartbeats that wait to be written.
    pub fn heartbeat_bytes(&self) -> usize {
        self.out.heartbeat_bytes()
    }

    /// Whether there are bytes to be written.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }
}
