//! [`Driver`]: the turns of a connection's task.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::look::{DriverState, FRAME_WINDOW, Turn};
use super::request_handler::{Batch, RequestHandler, TURN};
use crate::connection::busy::Busy;
use crate::connection::channel::Channel;
use crate::connection::clock::clock;
use crate::connection::lost::connection_lost;
use crate::connection::pace::least;
use crate::connection::read_buffer::Taken;
use crate::connection::state::{Consumed, Input, MAX_REQUESTS};
use crate::error::RpcError;
use crate::protocol::Frame;
use crate::transport::Reader;

/// Batches handled before other tasks get their turn.
const MAX_BATCHES: usize = 16;
/// The task of a connection.
pub(super) struct Driver<H> {
    pub(super) channel: Arc<Channel>,
    pub(super) reader: Box<dyn Reader>,
    handler: H,
    busy: Busy,
    pub(super) own: DriverState,
}

impl<H: RequestHandler> Driver<H> {
    pub(super) fn new(channel: Arc<Channel>, reader: Box<dyn Reader>, handler: H) -> Self {
        let own = DriverState::new(&channel, !handler.limits_reading(), clock());
        Self { channel, reader, handler, busy: Busy::default(), own }
    }

    /// Ready when the connection is to end, with the reason.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RpcError> {
        #[cfg(debug_assertions)]
        self.channel.update_in_turn(|state, _| state.set_driver_running(true));
        let polled = self.turn(cx);
        // One that has woken itself looks at everything in its next turn.
        #[cfg(debug_assertions)]
        if polled.is_pending() && !std::mem::take(&mut self.own.yielded) {
            self.channel.update_in_turn(|state, _| state.set_driver_running(false));
        }
        polled
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<RpcError> {
        self.own.now = clock();
        let until = self.own.now + TURN;
        let mut reading = true;
        // Once for each wake-up: a handler may leave its timer due.
        let mut timers_ran = false;
        for step in 0..MAX_BATCHES {
            let turn = self.look(cx);
            reading = matches!(turn, Turn::Read);
            match turn {
                Turn::End(cause) => return Poll::Ready(cause),
                Turn::Wait => {}
                Turn::Read => match self.read(step, cx) {
                    Poll::Ready(Err(cause)) => return Poll::Ready(cause),
                    Poll::Ready(Ok(())) if self.own.now >= until => break,
                    Poll::Ready(Ok(())) => continue,
                    Poll::Pending => {}
                },
            }
            match self.write(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(cause)) => return Poll::Ready(cause),
                Poll::Pending => {}
            }
            if !timers_ran && self.run_handlers_timers(reading) {
                timers_ran = true;
                continue;
            }
            if self.own.timers.poll_due(cx).is_pending() {
                return Poll::Pending;
            }
            self.own.now = clock();
        }
        // A peer that sends without a pause does not keep this end from anything else.
        if let Poll::Ready(Err(cause)) = self.write(cx) {
            return Poll::Ready(cause);
        }
        if !timers_ran {
            self.run_handlers_timers(reading);
        }
        cx.waker().wake_by_ref();
        #[cfg(debug_assertions)]
        {
            self.own.yielded = true;
        }
        Poll::Pending
    }

    /// Reads what there is, and handles it. Pending when there is nothing, and nothing to be done
    /// about it.
    ///
    /// # Errors
    /// Why the connection has ended.
    fn read(&mut self, step: usize, cx: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        let ended = match self.poll_fill(cx) {
            Poll::Ready(Ok(true)) => {
                // What requests took is known. A lone batch without any costs no clock.
                if !self.batch(cx) && step > 0 {
                    self.own.now = clock();
                }
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(false)) => RpcError::unavailable("the peer closed the connection"),
            Poll::Ready(Err(error)) => connection_lost(&error),
            // It may end now.
            Poll::Pending if self.own.all_is_read() => return Poll::Ready(Ok(())),
            Poll::Pending => return self.judge_silence(),
        };
        let cause = self.channel.update_in_turn(|state, _| state.peer_error_or(ended));
        Poll::Ready(Err(cause))
    }

    /// All that has arrived was read. Ready if the peer should have sent more.
    fn judge_silence(&mut self) -> Poll<Result<(), RpcError>> {
        if self.own.timers.handshake_is_over(self.own.now) {
            self.channel.fail_handshake();
        } else if self.own.sends_too_slowly() {
            self.channel.slow_sender();
        } else {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Runs the timers of handlers that are due, once what has arrived was read, and says whether
    /// there were any.
    fn run_handlers_timers(&mut self, reading: bool) -> bool {
        let now = self.own.now;
        self.own.timers.may_judge(now)
            && self.channel.update_in_turn(|state, _| state.run_handlers_timers(now, reading))
    }

    /// Writes some of what the operating system did not take, if it takes it now. Pending if there
    /// is nothing or no room.
    ///
    /// # Errors
    /// Why the connection is to end: it is lost, or the peer has taken nothing for too long. That is
    /// judged behind the attempt: this process may have been stopped, and the peer not.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        let Self { channel, own, .. } = self;
        let unwritten = &mut own.unwritten;
        if unwritten.is_empty() {
            return Poll::Pending;
        }
        match channel.writer.poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(connection_lost(&error))),
            Poll::Pending => {
                let slow = unwritten.has_stalled(channel.settings().slow_reader_timeout, own.now);
                return if slow { Poll::Ready(Err(channel.slow_reader())) } else { Poll::Pending };
            }
        }
        let (output, at) = unwritten.remaining();
        let (bytes, result) = channel.writer.write_some(output, at);
        if let Err(error) = result {
            return Poll::Ready(Err(connection_lost(&error)));
        }
        let now = clock();
        if bytes > 0 {
            let settings = channel.settings();
            unwritten.advance(bytes, least(settings.min_rate, settings.slow_reader_timeout), now);
        }
        channel.update_in_turn(|state, effects| {
            state.unwritten_advanced(unwritten, bytes, now, effects);
        });
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.own.input.poll_fill(&mut *self.reader, self.channel.writer.metrics(), cx)
    }

    /// Registers for wake-ups, runs what is due, and says what is next.
    fn look(&mut self, cx: &mut Context<'_>) -> Turn {
        loop {
            let own = &mut self.own;
            let found = self.channel.update_in_turn(|state, effects| own.look(state, cx, effects));
            if let Some(level) = found.starved {
                own.gate.end_greediest(level);
            }
            if found.peer_may_have_gone && self.reader.is_closed(cx) {
                // Nobody waits for answers. What was sent before is read when there is room for it,
                // and then the end.
                self.channel.update_in_turn(|state, effects| state.cancel_work(effects));
            }
            if found.rested {
                self.handler.shrink();
            }
            let look_again = found.flushes || !found.inbox.is_empty();
            if !found.inbox.is_empty() {
                self.deliver(found.inbox, cx);
            }
            if !look_again {
                return found.turn;
            }
        }
    }

    /// Runs the input through the pipeline, then hands on the resulting requests. Returns whether
    /// there were any.
    fn batch(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.own.now;
        if !self.own.input.is_enough() {
            let least = least(self.channel.settings().min_rate, FRAME_WINDOW);
            self.own.partly_read(least);
            self.channel.update_in_turn(|state, _| state.partly_read(now));
            return false;
        }
        let input = self.own.input.take();
        let (batch, consumed) = self.through_pipeline(&input);
        let requests = self.hand_on(batch, cx);
        self.own.input.put_back(input, consumed);
        requests
    }

    fn through_pipeline<'a>(&mut self, input: &'a Taken) -> (Batch<'a>, Consumed) {
        let now = self.own.now;
        let mut requests = Vec::new();
        self.own.timers.work();
        let input = Input {
            bytes: input,
            shared: input.shared(),
            at_most: self.own.at_once,
            idle_cores: self.busy.leaves_cores_idle(now),
            now,
        };
        let (consumed, in_work) = self
            .channel
            .update_in_turn(|state, effects| state.read(&input, &mut requests, effects));
        if consumed.bytes > 0 {
            self.own.frames_came();
        }
        (Batch::new(requests, now, in_work), consumed)
    }

    /// Says whether there were requests; then, the time is new.
    #[inline]
    fn hand_on(&mut self, batch: Batch<'_>, cx: &mut Context<'_>) -> bool {
        if batch.requests.is_empty() {
            return false;
        }
        let begun = batch.now;
        let now = self.handler.handle(&self.channel, batch, cx);
        self.own.now = now;
        self.channel.flush_in_turn(now);
        // As many as are done in a turn: what is left over of it gets tasks, which costs more.
        if now < begun + TURN / 2 {
            self.own.at_once = self.own.at_once.saturating_mul(2).min(MAX_REQUESTS);
        } else if now > begun + TURN {
            self.own.at_once = (self.own.at_once / 2).max(1);
        }
        true
    }

    /// Hands on frames that handlers sent to the tail while nothing was being read.
    fn deliver(&mut self, inbox: Vec<Frame<'static>>, cx: &mut Context<'_>) {
        let now = self.own.now;
        let mut requests = Vec::new();
        let in_work = self
            .channel
            .update_in_turn(|state, effects| state.deliver(inbox, &mut requests, now, effects));
        self.hand_on(Batch::new(requests, now, in_work), cx);
    }
}
