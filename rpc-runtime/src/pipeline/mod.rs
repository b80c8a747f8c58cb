//! The channel pipeline: a state machine without I/O and without a clock.
//!
//! Inbound, it takes bytes and produces events. Outbound, it takes frames and produces bytes. The
//! time is an argument. The caller holds the channel's lock. The rules are those of Netty's
//! `DefaultChannelPipeline`; a method documents where it differs.
//!
//! ```text
//!            head                                              tail
//! bytes ──▶ codec ──▶ handler ──▶ handler ──▶ handler ──▶ Tail (calls, requests)
//! bytes ◀── codec ◀── handler ◀── handler ◀── handler ◀── write
//! ```
//!
//! A traversal is a loop with one step per handler. Operations that a handler requests during a
//! call are queued and run after it has returned, so no handler is borrowed twice.

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
use self::outbound::OutboundBuffer;
use crate::error::RpcError;
use crate::protocol::{Codec, Decoded, Frame, Header, Output};

/// The receiver of inbound events that no handler stopped.
pub trait Tail<'a> {
    /// A frame.
    fn read(&mut self, frame: Frame<'a>);

    /// Whether it accepts another frame now. If not, the pipeline leaves the rest of its input
    /// unread.
    fn accepts(&self) -> bool {
        true
    }

    /// An event that a handler created.
    fn user_event(&mut self, event: Box<dyn Any + Send>) {
        drop(event);
    }

    /// A write that a handler requested has failed. No caller waits for its outcome.
    fn write_failed(&mut self, header: &Header, error: RpcError) {
        let _ = (header, error);
    }
}

/// Watermarks of the outbound bytes of a connection. The connection is congested from the time that
/// more than `high` bytes wait to be written until fewer than `low` do. Default 64 KiB and 32 KiB,
/// as in Netty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Above this many bytes, the connection is not writable.
    pub high: usize,
    /// Below this many bytes, it is writable again.
    pub low: usize,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high: 64 << 10, low: 32 << 10 }
    }
}

struct NamedHandler {
    name: String,
    /// Distinguishes a handler from a later one of the same name.
    serial: u64,
    handler: Box<dyn ChannelHandler>,
}

/// The handlers of one connection, and the encoded bytes that wait to be written.
pub struct Pipeline {
    codec: Box<dyn Codec>,
    entries: Vec<NamedHandler>,
    next_serial: u64,
    ops: Vec<Op>,
    /// Positions of the traversals that wait while the operations of a handler run.
    cursors: Vec<Cursor>,
    /// Set when operations are nested too deeply. No more run until all traversals have returned.
    ops_suspended: bool,
    /// The number of input bytes that the codec needs to continue; 0 if not known.
    needed: usize,
    out: OutboundBuffer,
    /// Encoded bytes that the operating system has not yet accepted.
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
            ops_suspended: false,
            needed: 0,
            out: OutboundBuffer::default(),
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

    /// Whether the connection is not congested; see [`Watermarks`].
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The watermarks.
    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    /// Encoded bytes that the operating system has not yet accepted.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether the socket is to be read.
    pub fn auto_read(&self) -> bool {
        self.auto_read
    }

    /// The reason for closing the channel, if it is to be closed. The output is still written
    /// first.
    pub fn closing(&self) -> Option<&RpcError> {
        self.closing.as_ref()
    }

    // ---- inbound ---------------------------------------------------------------------------

    /// Reports that the connection is open.
    pub fn channel_active<'a>(&mut self, now: Instant, tail: &mut dyn Tail<'a>) {
        self.inbound(0, now, tail, |handler, ctx| handler.channel_active(ctx));
    }

    /// The connection is closed for the reason `cause`.
    pub fn channel_inactive<'a>(
        &mut self,
        cause: &RpcError,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        self.inbound(0, now, tail, |handler, ctx| handler.channel_inactive(ctx, cause));
    }

    /// Processes the complete frames at the front of `input` and returns the number of bytes
    /// consumed. Pass the rest again once more bytes have arrived; [`needed`](Self::needed) returns
    /// how many.
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
                    // Closes even if a handler stopped the error: the next frame cannot be found.
                    self.closing.get_or_insert(error);
                }
            }
        }
        at.min(input.len())
    }

    /// The length that `input`, the rest of the last [`read`](Self::read), must reach before
    /// another read can make progress.
    pub fn needed(&self, input: &[u8]) -> usize {
        // The codec cannot be called here, since decoding changes its state.
        self.needed.max(input.len())
    }

    /// All bytes of a batch have been processed.
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

    /// The operating system accepted `bytes` bytes of the output.
    pub fn written<'a>(&mut self, bytes: usize, now: Instant, tail: &mut dyn Tail<'a>) {
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        self.inbound(0, now, tail, |handler, ctx| handler.write_complete(ctx, bytes));
        // A low watermark of 0 means "once nothing is pending".
        if !self.writable && self.pending_bytes < self.watermarks.low.max(1) {
            self.writability_changed(true, now, tail);
        }
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.handler.poll_timeout()).min()
    }

    /// Runs the timers that are due at `now`. An error of one does not affect the others.
    pub fn handle_timeout<'a>(&mut self, now: Instant, tail: &mut dyn Tail<'a>) {
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            let serial = entry.serial;
            let (handled, mut cursor) = self.call(at, now, tail, |handler, ctx| {
                let due = handler.poll_timeout().is_some_and(|due| due <= now);
                if due { handler.handle_timeout(ctx) } else { Ok(Flow::Next) }
            });
            if let Err(error) = handled {
                cursor = self.with_cursor(cursor, |pipeline| {
                    pipeline.handler_failed(serial, cursor, &error, now, tail);
                });
            }
            at = cursor.inbound;
        }
    }

    // ---- outbound --------------------------------------------------------------------------

    /// Writes `frame`, starting at the tail.
    ///
    /// # Errors
    /// A handler refused the frame, or it exceeds the payload limit. Nothing was written; the
    /// channel stays open.
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

    /// Takes the bytes to be written next, and keeps `empty` as the next buffer. Heartbeats come
    /// first. Other frames come in portions of 256 KiB or one frame, so a heartbeat waits for one
    /// portion at most.
    pub fn take_output(&mut self, empty: Output) -> Output {
        self.out.take(empty)
    }

    /// Frees buffers that are kept for later use.
    pub(crate) fn shrink(&mut self) {
        self.out.shrink();
        if self.cursors.is_empty() {
            self.cursors = Vec::new();
            self.ops = Vec::new();
        }
    }

    /// Sets the pending bytes to 0: encoded bytes will not be written any more.
    pub(crate) fn discard_pending(&mut self) {
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
