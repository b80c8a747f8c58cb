//! The interface between a pipeline and its handlers: [`ChannelHandler`], its [`ChannelContext`], and
//! the [`Change`]s that it may ask for. The three types refer to one another.

use std::any::Any;
use std::time::Instant;

use super::change::{Kind, New, Place};
use crate::error::RpcError;
use crate::protocol::Frame;

/// What becomes of an event after a handler has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on to the next handler.
    Next,
    /// It ends here: the handler took it, or will pass it on later.
    Stop,
}

/// What a handler says of an event: where it goes, or that handling it failed.
pub type Handled = Result<Flow, RpcError>;

/// A station of the pipeline, Netty's `ChannelHandler`.
///
/// Inbound events travel from the head (the socket) to the tail (the calls), outbound events from
/// the tail to the head. An event that a handler does not implement passes by it. Inbound and
/// outbound are one trait, as in Netty 5: a handler implements what it needs.
///
/// Handlers are synchronous state machines. They run under the channel's lock, so they do no I/O
/// and wait for nothing; the time is [`ChannelContext::now`], read once for each batch. What a
/// handler asks of its context is done as soon as the handler returns, before the event it was
/// called for goes on, in the order it was asked for.
#[allow(unused_variables)]
pub trait ChannelHandler: Send + 'static {
    /// The handler is part of a pipeline from now on.
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {}

    /// The handler is no longer part of the pipeline. What it has held back it passes on now, with
    /// [`ChannelContext::fire_read`] and [`ChannelContext::write`]: that goes to its neighbours,
    /// or, when it was replaced, to its replacement.
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

    /// Inbound: the frames that arrived together have all been seen.
    fn channel_read_complete(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: an event that another handler made, such as "idle".
    fn user_event(&mut self, ctx: &mut ChannelContext<'_>, event: &(dyn Any + Send)) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: the bytes that wait to be written went over the high watermark (`false`) or back
    /// under the low one (`true`).
    fn writability_changed(&mut self, ctx: &mut ChannelContext<'_>, writable: bool) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: the operating system took `bytes` bytes.
    fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        Ok(Flow::Next)
    }

    /// Inbound: this handler or one before it failed. An error that no handler stops closes the
    /// channel, with the error as the cause on every pending call. (Netty only logs it.)
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

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing happens before.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        Ok(Flow::Next)
    }
}

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
    /// handler's [`exception_caught`](ChannelHandler::exception_caught).
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
/// Names are unique within a pipeline. A handler added without a name (`None`) is named after its
/// type: `Idle#0`, `Idle#1`, …
pub struct Change(pub(super) Kind<Box<dyn ChannelHandler>>);

impl Change {
    /// Adds a handler next to the head, where bytes come in.
    pub fn add_first<'n>(name: impl Into<Option<&'n str>>, handler: impl ChannelHandler) -> Self {
        Self(Kind::Add { place: Place::First, new: boxed(name, handler) })
    }

    /// Adds a handler next to the tail, where calls are.
    pub fn add_last<'n>(name: impl Into<Option<&'n str>>, handler: impl ChannelHandler) -> Self {
        Self(Kind::Add { place: Place::Last, new: boxed(name, handler) })
    }

    /// Adds a handler in front of the one called `base`.
    pub fn add_before<'n>(
        base: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Add { place: Place::Before(base.to_owned()), new: boxed(name, handler) })
    }

    /// Adds a handler behind the one called `base`.
    pub fn add_after<'n>(
        base: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Add { place: Place::After(base.to_owned()), new: boxed(name, handler) })
    }

    /// Removes the handler called `name`.
    pub fn remove(name: &str) -> Self {
        Self(Kind::Remove { name: name.to_owned() })
    }

    /// Puts a handler in the place of the one called `old`. The new one is added before the old one
    /// hears of its removal, so what the old one then passes on reaches the new one first.
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
) -> New<Box<dyn ChannelHandler>> {
    New::of::<H>(name, Box::new(handler))
}
