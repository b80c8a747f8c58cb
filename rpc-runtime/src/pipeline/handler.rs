//! The interface between a pipeline and its handlers: [`ChannelHandler`], its [`ChannelContext`],
//! and the [`Change`]s that it can request. The three types refer to one another.

use std::any::Any;
use std::time::Instant;

use super::change::{Kind, NewHandler, Position};
use crate::error::RpcError;
use crate::protocol::Frame;

/// Whether an event continues after a handler has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It continues to the next handler.
    Next,
    /// It ends here. The handler has consumed it, or passes it on later.
    Stop,
}

/// The result of handling an event.
pub type Handled = Result<Flow, RpcError>;

/// A handler of a [`Pipeline`](super::Pipeline), like Netty's `ChannelHandler`.
///
/// Inbound events travel from the head (the socket) to the tail (the calls), outbound events from
/// the tail to the head. One trait has the methods for both directions, as in Netty 5. Each method
/// has a default that passes the event on.
///
/// Handlers are synchronous state machines. They run under the channel's lock, so they must not do
/// I/O or block. The time is [`ChannelContext::now`], read once per batch. Operations that a
/// handler requests from its context run when the handler returns, in the order of the requests,
/// before the current event continues.
#[allow(unused_variables)]
pub trait ChannelHandler: Send + 'static {
    /// The handler was added to a pipeline.
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {}

    /// The handler was removed from the pipeline. Frames that it has held back must be passed on
    /// now, with [`ChannelContext::fire_read`] and [`ChannelContext::write`]. They go to its
    /// neighbours, or to its replacement if it was replaced.
    fn handler_removed(&mut self, ctx: &mut ChannelContext<'_>) {}

    /// Inbound: the connection is open.
    fn channel_active(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: the connection is closed.
    fn channel_inactive(&mut self, ctx: &mut ChannelContext<'_>, cause: &RpcError) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: a frame arrived. The handler may change it.
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: all frames of a batch have been read.
    fn channel_read_complete(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: an event of another handler, such as [`IdleEvent`](crate::handlers::IdleEvent).
    fn user_event(&mut self, ctx: &mut ChannelContext<'_>, event: &(dyn Any + Send)) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: the bytes that wait to be written exceeded the high watermark (`false`) or fell
    /// below the low one (`true`).
    fn writability_changed(&mut self, ctx: &mut ChannelContext<'_>, writable: bool) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: the operating system accepted `bytes` bytes.
    fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: this handler or one before it failed. An error that no handler stops closes the
    /// channel and fails every pending call with this cause. (Netty only logs it.)
    fn exception_caught(&mut self, ctx: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
        Flow::Next
    }

    /// Outbound: a frame is to be written. The handler may change it. An error fails this write,
    /// not the channel.
    fn write(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        Ok(Flow::Next)
    }

    /// Outbound: the channel is to be closed.
    fn close(&mut self, ctx: &mut ChannelContext<'_>, cause: &RpcError) -> Handled {
        Ok(Flow::Next)
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) must be called; `None` for never.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come.
    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        Ok(Flow::Next)
    }
}

/// An operation that a handler requested. The pipeline runs it after the handler has returned.
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
    /// The current time, read once per batch.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The name of this handler in its pipeline.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Whether the connection is not congested; see [`Watermarks`](super::Watermarks).
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Bytes of pings and pongs that wait to be written. They are part of
    /// [`pending_bytes`](Self::pending_bytes) and leave before all others.
    pub fn heartbeat_bytes(&self) -> usize {
        self.heartbeat_bytes
    }

    /// Writes `frame`, starting at the handler before this one.
    pub fn write(&mut self, frame: Frame<'static>) {
        self.ops.push(Op::Write(frame));
    }

    /// Writes `frame`, starting at the tail, so through all handlers.
    pub fn channel_write(&mut self, frame: Frame<'static>) {
        self.ops.push(Op::ChannelWrite(frame));
    }

    /// Passes `frame` to the handlers behind this one, like a received frame.
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

    /// Closes the channel, starting at the tail. Frames that are already written are still sent.
    pub fn close(&mut self, cause: RpcError) {
        self.ops.push(Op::Close(cause));
    }

    /// Stops (`false`) or resumes (`true`) reading from the socket. Default `true`.
    pub fn set_auto_read(&mut self, auto_read: bool) {
        self.ops.push(Op::AutoRead(auto_read));
    }

    /// Adds, removes or replaces a handler, which may be this one. If the change fails, the error
    /// goes to this handler's [`exception_caught`](ChannelHandler::exception_caught).
    pub fn change(&mut self, change: Change) {
        self.ops.push(Op::Change(change));
    }

    /// Removes this handler.
    pub fn remove_self(&mut self) {
        let change = Change::remove(self.name);
        self.change(change);
    }
}

/// A change of the pipeline, made with [`Pipeline::change`](super::Pipeline::change), from within a
/// handler with [`ChannelContext::change`](ChannelContext::change).
///
/// Names are unique within a pipeline. A handler that is added without a name (`None`) is named
/// after its type: `Idle#0`, `Idle#1`, …
pub struct Change(pub(super) Kind<Box<dyn ChannelHandler>>);

impl Change {
    /// Adds a handler directly behind the head, the side of the socket.
    pub fn add_first<'n>(name: impl Into<Option<&'n str>>, handler: impl ChannelHandler) -> Self {
        Self(Kind::Add { position: Position::First, new: boxed(name, handler) })
    }

    /// Adds a handler directly before the tail, the side of the calls.
    pub fn add_last<'n>(name: impl Into<Option<&'n str>>, handler: impl ChannelHandler) -> Self {
        Self(Kind::Add { position: Position::Last, new: boxed(name, handler) })
    }

    /// Adds a handler before the handler `base`.
    pub fn add_before<'n>(
        base: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Add { position: Position::Before(base.to_owned()), new: boxed(name, handler) })
    }

    /// Adds a handler after the handler `base`.
    pub fn add_after<'n>(
        base: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Add { position: Position::After(base.to_owned()), new: boxed(name, handler) })
    }

    /// Removes the handler `name`.
    pub fn remove(name: &str) -> Self {
        Self(Kind::Remove { name: name.to_owned() })
    }

    /// Replaces the handler `old`. The new handler is added before `handler_removed` of the old one
    /// is called, so frames that the old one then passes on reach the new one first.
    pub fn replace<'n>(
        old: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Replace { old: old.to_owned(), new: boxed(name, handler) })
    }
}

fn boxed<'n, H: ChannelHandler>(
    name: impl Into<Option<&'n str>>,
    handler: H,
) -> NewHandler<Box<dyn ChannelHandler>> {
    NewHandler::of::<H>(name, Box::new(handler))
}
