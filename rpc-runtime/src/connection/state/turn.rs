//! The driver's turn: what it finds when it looks, and what it waits for.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::{ConnectionState, Effects};
use crate::connection::unwritten::Unwritten;
use crate::error::RpcError;
use crate::protocol::{Frame, Kind};

/// Whether the driver may read, and how.
#[derive(Clone, Copy, Debug)]
pub(in crate::connection) struct ReadDemand {
    /// More may be read, as far as the requests in work and the output go.
    pub(in crate::connection) allowed: bool,
    /// There are streams, whose items and credit come the same way.
    pub(in crate::connection) streams: bool,
}

impl ConnectionState {
    /// The driver looks: it is woken for what others change from now on. Runs what is due.
    ///
    /// # Errors
    /// The connection has ended.
    pub(in crate::connection) fn begin_turn(
        &mut self,
        waker: &Waker,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), RpcError> {
        self.driver.register(waker);
        if let Some(cause) = self.lifecycle.closed() {
            return Err(cause.clone());
        }
        self.in_flight.expire(now, &mut effects.wakers);
        self.grant_window(now, effects);
        Ok(())
    }

    /// What the operating system did not take, if it was left since the last look.
    pub(in crate::connection) fn take_unwritten(&mut self) -> Option<Unwritten> {
        self.flushing.take_unwritten()
    }

    /// Frames that handlers sent to the tail while nothing was being read.
    pub(in crate::connection) fn take_inbox(&mut self) -> Vec<Frame<'static>> {
        std::mem::take(&mut self.inbox)
    }

    /// Wakes the next few tasks that wait for room, if there is room. Returns whether more wait.
    /// They are woken in a later turn, after the first have run.
    pub(in crate::connection) fn wake_awaiting_room(&mut self, effects: &mut Effects) -> bool {
        let writable = self.is_writable();
        let waiting = self.streams.awaiting_room();
        if waiting.is_empty() || !writable {
            return false;
        }
        waiting.next_few(&mut effects.wakers);
        !waiting.is_empty()
    }

    /// Whether more may be read now. `limited`: not while too much is in work or waits to be
    /// written.
    pub(in crate::connection) fn read_demand(&mut self, limited: bool) -> ReadDemand {
        let max = self.settings.max_concurrent_requests;
        let streams = !self.streams.is_empty();
        // At the limit, a client that keeps to it is still read: it may cancel. Beyond it, not; but
        // requests in work may wait for items or credit of streams, which come the same way.
        let full = limited && self.is_overloaded() && !streams;
        let resume_below = if !full {
            0
        } else if self.work.len() - self.work.cancelled() <= max {
            // The client keeps to the limit: what it has cancelled ends soon, and the cancels of
            // what is left may be behind.
            max.saturating_add(1)
        } else {
            // Half of it must be done before reading goes on, or it would stop again at once.
            max.div_ceil(2)
        };
        self.work.set_resume_below(resume_below);
        let allowed = self.pipeline.auto_read() && !full && (self.is_writable() || !limited);
        ReadDemand { allowed, streams }
    }

    /// Bytes of buffers that the driver keeps.
    #[inline]
    pub(in crate::connection) fn set_kept(&mut self, bytes: usize) {
        self.kept = bytes;
    }

    #[inline]
    pub(in crate::connection) fn kept(&self) -> usize {
        self.kept
    }

    /// Why the connection is being closed, if it is. What is under way fails.
    pub(in crate::connection) fn closing(&mut self, effects: &mut Effects) -> Option<RpcError> {
        let cause = self.pipeline.closing()?.clone();
        self.begin_closing(&cause, false, effects);
        Some(cause)
    }

    /// Why the connection ends, if its announced end can come now.
    pub(in crate::connection) fn end_due(&self, now: Instant) -> Option<RpcError> {
        self.may_end(now).then(|| self.lifecycle.announced_end())
    }

    /// Gives back memory that is only kept for what may come.
    pub(in crate::connection) fn shrink(&mut self) {
        self.flushing.shrink();
        self.in_flight.shrink();
        self.pipeline.shrink();
    }

    /// When the pipeline's handlers are due.
    pub(in crate::connection) fn handlers_due(&self) -> Option<Instant> {
        self.pipeline.poll_timeout()
    }

    /// How often the peer expects a sign of life, if it does.
    pub(in crate::connection) fn peer_heartbeat_interval(&self) -> Option<Duration> {
        self.peer.heartbeat_interval()
    }

    /// When something of the state is due, handlers aside.
    pub(in crate::connection) fn due(&self) -> [Option<Instant>; 3] {
        [self.in_flight.earliest(), self.flushing.duty.due(), self.leaves_at()]
    }

    /// The driver wakes at this time by itself.
    pub(in crate::connection) fn arm(&mut self, at: Option<Instant>) {
        self.driver.arm(at, !self.pipeline.auto_read());
        self.handlers_ran = false;
    }

    /// Runs the timers of the pipeline's handlers that are due, and says whether there were any.
    ///
    /// To be called when all that has arrived was read, or silence would be found where bytes wait.
    /// `reading`: whether bytes are taken at all; while not, silence says nothing of the peer.
    pub(in crate::connection) fn run_handlers_timers(
        &mut self,
        now: Instant,
        reading: bool,
    ) -> bool {
        let due = self.handlers_due().is_some_and(|due| due <= now);
        if due {
            self.pipeline(|pipeline, tail| {
                if !reading {
                    pipeline.read_complete(now, tail);
                }
                pipeline.handle_timeout(now, tail);
            });
        }
        due
    }

    /// Writes a pong that nobody asked for, unless the driver runs, a heartbeat waits already or
    /// the connection has ended. Returns whether it was written.
    pub(in crate::connection) fn write_sign_of_life(
        &mut self,
        due_before: Instant,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let overdue = self.driver.armed().is_some_and(|due| due <= due_before);
        if !overdue || self.lifecycle.is_closed() || self.pipeline.heartbeat_bytes() > 0 {
            return false;
        }
        // Not being able to is no reason to end a connection.
        let written = self.write(Frame::of_kind(Kind::Pong), now).is_ok();
        if written {
            effects.flush = Some(now);
        }
        written
    }
}
