//! Traversal of the handlers: a loop in each direction, and the operations that handlers request.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::cursor::Cursor;
use super::handler::{ChannelContext, ChannelHandler, Flow, Handled, Op};
use super::{Pipeline, Tail};
use crate::error::RpcError;
use crate::protocol::Frame;

/// Maximum nesting of operations, such as writes that are requested within writes.
const MAX_NESTING: usize = 64;

impl Pipeline {
    /// Calls one handler, then runs the operations that it requested. Returns the position from
    /// which the traversal continues.
    #[inline]
    pub(super) fn call<'a>(
        &mut self,
        at: usize,
        now: Instant,
        tail: &mut dyn Tail<'a>,
        call: impl FnOnce(&mut dyn ChannelHandler, &mut ChannelContext<'_>) -> Handled,
    ) -> (Handled, Cursor) {
        let Some(entry) = self.entries.get_mut(at) else { return (Ok(Flow::Next), Cursor::at(at)) };
        let mut ctx = ChannelContext {
            now,
            name: &entry.name,
            writable: self.writable,
            pending_bytes: self.pending_bytes,
            heartbeat_bytes: self.out.heartbeat_bytes(),
            ops: &mut self.ops,
        };
        let handled = catch_panic(&mut self.closing, &mut *entry.handler, &mut ctx, call);
        if self.ops.is_empty() {
            return (handled, Cursor::at(at));
        }
        (handled, self.run_ops(Cursor::at(at), now, tail))
    }

    /// Passes an inbound event to the handlers from index `from` on.
    #[inline]
    pub(super) fn inbound<'a>(
        &mut self,
        from: usize,
        now: Instant,
        tail: &mut dyn Tail<'a>,
        mut event: impl FnMut(&mut dyn ChannelHandler, &mut ChannelContext<'_>) -> Handled,
    ) -> Flow {
        let mut at = from;
        while let Some(entry) = self.entries.get(at) {
            let serial = entry.serial;
            match self.call(at, now, tail, &mut event) {
                (Ok(Flow::Next), cursor) => at = cursor.inbound,
                (Ok(Flow::Stop), _) => return Flow::Stop,
                (Err(error), cursor) => {
                    self.handler_failed(serial, cursor, &error, now, tail);
                    return Flow::Stop;
                }
            }
        }
        Flow::Next
    }

    /// Handles an error of the handler `serial`, which was at `cursor`. The error goes to that
    /// handler first, if it is still in the pipeline.
    #[cold]
    pub(super) fn handler_failed<'a>(
        &mut self,
        serial: u64,
        cursor: Cursor,
        error: &RpcError,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        let own = self.entries.iter().position(|entry| entry.serial == serial);
        self.exception(own.unwrap_or(cursor.inbound), error, now, tail);
    }

    #[inline]
    pub(super) fn fire_read<'a>(
        &mut self,
        from: usize,
        mut frame: Frame<'a>,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        let flow =
            self.inbound(from, now, tail, |handler, ctx| handler.channel_read(ctx, &mut frame));
        if flow == Flow::Next {
            tail.read(frame);
        }
    }

    pub(super) fn fire_user_event<'a>(
        &mut self,
        from: usize,
        event: Box<dyn Any + Send>,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        if self.inbound(from, now, tail, |handler, ctx| handler.user_event(ctx, &*event))
            == Flow::Next
        {
            tail.user_event(event);
        }
    }

    pub(super) fn writability_changed<'a>(
        &mut self,
        writable: bool,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        self.writable = writable;
        self.inbound(0, now, tail, |handler, ctx| {
            // A handler may have written so much on `true` that all handlers have received `false`
            // since.
            let stale = ctx.writable != writable;
            if stale { Ok(Flow::Stop) } else { handler.writability_changed(ctx, writable) }
        });
    }

    pub(super) fn exception<'a>(
        &mut self,
        from: usize,
        error: &RpcError,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        let flow =
            self.inbound(from, now, tail, |handler, ctx| Ok(handler.exception_caught(ctx, error)));
        if flow == Flow::Next {
            self.closing.get_or_insert_with(|| error.clone());
        }
    }

    /// Passes `frame` to the handlers before index `before`, last to first, and encodes it.
    #[inline]
    pub(super) fn write_before<'a>(
        &mut self,
        mut before: usize,
        frame: &mut Frame<'_>,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) -> Result<(), RpcError> {
        while let Some(at) = before.checked_sub(1) {
            let (handled, cursor) =
                self.call(at, now, tail, |handler, ctx| handler.write(ctx, frame));
            if handled? == Flow::Stop {
                return Ok(());
            }
            before = cursor.outbound;
        }
        self.pending_bytes += self.out.append(&mut *self.codec, frame)?;
        if self.writable && self.pending_bytes > self.watermarks.high {
            self.writability_changed(false, now, tail);
        }
        Ok(())
    }

    /// Runs the operations that the handler at `cursor` requested, in order. Returns its position
    /// afterwards.
    #[cold]
    pub(super) fn run_ops<'a>(
        &mut self,
        cursor: Cursor,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) -> Cursor {
        let mut ops = std::mem::take(&mut self.ops);
        if self.cursors.len() >= MAX_NESTING {
            self.ops_suspended = true;
            self.closing.get_or_insert_with(|| {
                RpcError::internal("pipeline handlers trigger each other without end")
            });
            return cursor;
        }
        let depth = self.cursors.len();
        self.with_cursor(cursor, |pipeline| {
            for op in ops.drain(..) {
                // Without this, two operations per operation would make 2^64 of them within the
                // nesting limit.
                if pipeline.ops_suspended {
                    break;
                }
                let here = pipeline.cursors.get(depth).copied().unwrap_or(cursor);
                pipeline.run_op(op, here, now, tail);
            }
            // Keep the allocation.
            if pipeline.ops.capacity() == 0 {
                pipeline.ops = ops;
            }
        })
    }

    /// Runs `act` while a traversal waits at `cursor`. Returns the position of the traversal
    /// afterwards.
    pub(super) fn with_cursor(&mut self, cursor: Cursor, act: impl FnOnce(&mut Self)) -> Cursor {
        self.cursors.push(cursor);
        act(self);
        let cursor = self.cursors.pop().unwrap_or(cursor);
        if self.cursors.is_empty() {
            self.ops_suspended = false;
        }
        cursor
    }

    fn run_op<'a>(&mut self, op: Op, here: Cursor, now: Instant, tail: &mut dyn Tail<'a>) {
        match op {
            Op::Write(frame) => self.write_for_handler(here.outbound, frame, now, tail),
            Op::ChannelWrite(frame) => self.write_for_handler(self.entries.len(), frame, now, tail),
            Op::FireRead(frame) => self.fire_read(here.inbound, frame, now, tail),
            Op::FireUserEvent(event) => self.fire_user_event(here.inbound, event, now, tail),
            Op::FireException(error) => self.exception(here.inbound, &error, now, tail),
            Op::Close(cause) => self.close(cause, now, tail),
            Op::AutoRead(auto_read) => self.auto_read = auto_read,
            Op::Change(change) => {
                if let Err(error) = self.change(change, now, tail) {
                    // To the handler itself, or to its replacement.
                    self.exception(here.inbound.min(here.outbound), &error, now, tail);
                }
            }
        }
    }

    fn write_for_handler<'a>(
        &mut self,
        before: usize,
        mut frame: Frame<'static>,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        if let Err(error) = self.write_before(before, &mut frame, now, tail) {
            tail.write_failed(&frame.header, error);
        }
    }
}

/// Calls a handler and turns a panic into an error, which closes the channel. A panic must not go
/// further: the handler runs under the channel's lock, in a task of any caller.
#[inline]
pub(super) fn catch_panic(
    closing: &mut Option<RpcError>,
    handler: &mut dyn ChannelHandler,
    ctx: &mut ChannelContext<'_>,
    call: impl FnOnce(&mut dyn ChannelHandler, &mut ChannelContext<'_>) -> Handled,
) -> Handled {
    let result = catch_unwind(AssertUnwindSafe(|| call(handler, ctx)));
    result.unwrap_or_else(|_| {
        let error = RpcError::internal(format!("the pipeline handler `{}` panicked", ctx.name()));
        closing.get_or_insert_with(|| error.clone());
        Err(error)
    })
}
