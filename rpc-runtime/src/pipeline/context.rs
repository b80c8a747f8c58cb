//! [`ChannelContext`]: what a handler may ask for.

use std::any::Any;
use std::time::Instant;

use super::change::Change;
use crate::error::RpcError;
use crate::protocol::Frame;

/// What a handler asks its pipeline to do once it has returned.
pub(super) enum Op {
    Write(Frame<'static>),
    ChannelWrite(Frame<'static>),
    FireRead(Frame<'static>),
    FireUserEvent(Box<dyn Any + Send>),
    FireException(RpcError),
    Close(RpcError),
    AutoRead(bool),
    Change(Change),
}

/// A handler's view of its pipeline, Netty's `ChannelHandlerContext`.
pub struct ChannelContext<'a> {
    pub(super) now: Instant,
    pub(super) name: &'a str,
    pub(super) writable: bool,
    pub(super) pending_bytes: usize,
    pub(super) heartbeat_bytes: usize,
    pub(super) ops: &'a mut Vec<Op>,
}

impl ChannelContext<'_> {
    /// The time, read once for the batch that is being handled.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The name of this handler in its pipeline.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Whether the bytes that wait to be written are under the high watermark.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Those of them that are pings and pongs, which leave ahead of all others.
    pub fn heartbeat_bytes(&self) -> usize {
        self.heartbeat_bytes
    }

    /// Writes `frame`, starting at the handler before this one.
    pub fn write(&mut self, frame: Frame<'static>) {
        self.ops.push(Op::Write(frame));
    }

    /// Writes `frame`, starting at the tail: through all handlers.
    pub fn channel_write(&mut self, frame: Frame<'static>) {
        self.ops.push(Op::ChannelWrite(frame));
    }

    /// Passes `frame` to the handler behind this one, as if it had just arrived.
    pub fn fire_read(&mut self, frame: Frame<'static>) {
        self.ops.push(Op::FireRead(frame));
    }

    /// Passes an event to the handlers behind this one.
    pub fn fire_user_event(&mut self, event: impl Any + Send) {
        self.ops.push(Op::FireUserEvent(Box::new(event)));
    }

    /// Passes an error to the handlers behind this one.
    pub fn fire_exception(&mut self, error: RpcError) {
        self.ops.push(Op::FireException(error));
    }

    /// Closes the channel, starting at the tail. What is written already still leaves.
    pub fn close(&mut self, cause: RpcError) {
        self.ops.push(Op::Close(cause));
    }

    /// With `false` no more bytes are taken from the socket, until `true`.
    pub fn set_auto_read(&mut self, auto_read: bool) {
        self.ops.push(Op::AutoRead(auto_read));
    }

    /// Adds, removes or replaces a handler; this one, too. A change that can't be made reaches this
    /// handler's [`exception_caught`](super::ChannelHandler::exception_caught).
    pub fn change(&mut self, change: Change) {
        self.ops.push(Op::Change(change));
    }

    /// Removes this handler.
    pub fn remove_self(&mut self) {
        let change = Change::remove(self.name);
        self.change(change);
    }
}
