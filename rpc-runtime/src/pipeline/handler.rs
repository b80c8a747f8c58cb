//! [`ChannelHandler`]: a station of the pipeline.

use std::any::Any;
use std::time::Instant;

use super::context::ChannelContext;
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
