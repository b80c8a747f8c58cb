//! [`ConnectionState`]: what is behind a channel's lock.

use std::sync::Arc;
use std::time::Instant;

use super::driver_slot::DriverSlot;
use super::effects::Effects;
use super::flushing::Flushing;
use super::lifecycle::Lifecycle;
use super::peer::Peer;
use super::tail::ChannelTail;
use super::work::Work;
use crate::budget::Account;
use crate::connection::in_flight::InFlight;
use crate::connection::settings::{ChannelSettings, MAX_CONTROL};
use crate::connection::streams::Streams;
use crate::error::RpcError;
use crate::pipeline::{Pipeline, Tail};
use crate::protocol::{Frame, FrameCodec, Hello};

/// What is behind a channel's lock.
pub(in crate::connection) struct ConnectionState {
    pub(super) settings: Arc<ChannelSettings>,
    pub(super) lifecycle: Lifecycle,
    pub(super) peer: Peer,
    pub(super) pipeline: Pipeline,
    /// The pipeline's handlers ran since their timers were last compared with the driver's.
    pub(super) handlers_ran: bool,
    /// Frames that handlers sent to the tail while nothing was being read.
    pub(super) inbox: Vec<Frame<'static>>,
    /// Calls of this end.
    pub(super) in_flight: InFlight,
    /// Requests of the peer that are in work.
    pub(super) work: Work,
    pub(super) streams: Streams,
    pub(super) flushing: Flushing,
    pub(super) driver: DriverSlot,
    pub(super) account: Arc<Account>,
    /// Bytes of buffers that the driver keeps for the next large frame.
    pub(super) kept: usize,
}

impl ConnectionState {
    /// Without handlers; nothing is written yet.
    pub(in crate::connection) fn new(
        settings: Arc<ChannelSettings>,
        account: Arc<Account>,
    ) -> Self {
        let codec = FrameCodec::new(settings.max_payload).with_max_control(MAX_CONTROL);
        Self {
            lifecycle: Lifecycle::new(),
            peer: Peer::default(),
            pipeline: Pipeline::new(codec, settings.watermarks),
            handlers_ran: true,
            inbox: Vec::new(),
            in_flight: InFlight::new(settings.max_in_flight),
            work: Work::default(),
            streams: Streams::new(settings.budget.stream_window() as usize),
            flushing: Flushing::default(),
            driver: DriverSlot::default(),
            account,
            kept: 0,
            settings,
        }
    }

    /// Runs the pipeline while nothing is being read.
    #[inline]
    pub(in crate::connection) fn pipeline<R>(
        &mut self,
        run: impl FnOnce(&mut Pipeline, &mut dyn Tail<'static>) -> R,
    ) -> R {
        self.handlers_ran = true;
        run(&mut self.pipeline, &mut ChannelTail::aside(&mut self.inbox))
    }

    /// Writes a frame, starting at the pipeline's tail. The caller sees to its flush.
    #[inline]
    pub(super) fn write(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), RpcError> {
        self.flushing.gathered();
        self.handlers_ran = true;
        let Self { pipeline, inbox, .. } = self;
        pipeline.write(frame, now, &mut ChannelTail::aside(inbox))
    }

    /// Writes a frame and has it flushed.
    ///
    /// # Errors
    /// The connection has ended, or the frame cannot be written.
    pub(in crate::connection) fn send(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), RpcError> {
        if let Some(cause) = self.lifecycle.closed() {
            return Err(cause.clone());
        }
        self.peer.fits(frame.body.len())?;
        self.write(frame, now)?;
        self.flush_now(now, effects);
        Ok(())
    }

    /// What every change ends with. Calls that wait get the room that there is now, and the memory
    /// that is held is counted.
    #[inline]
    pub(in crate::connection) fn conclude(&mut self, effects: &mut Effects) {
        if self.in_flight.has_queued() {
            self.admit(effects);
        }
        if self.lifecycle.is_closed() {
            // A handler may have written something.
            self.drop_output();
        }
        self.count_memory(effects);
    }

    /// Wakes the driver, if there is something for it that it does not know of. What every change
    /// ends with that the driver has not made itself.
    #[inline]
    pub(in crate::connection) fn check_driver(&mut self, effects: &mut Effects) {
        if effects.flush.is_some() || effects.writing || !self.driver.is_waiting() {
            // The flush ends with such a check.
            return;
        }
        if self.driver_is_needed() {
            self.wake_driver(effects);
        }
        self.handlers_ran = false;
    }

    #[inline]
    pub(super) fn driver_is_needed(&self) -> bool {
        self.driver.misses(self.in_flight.earliest())
            || self.driver.misses(self.flushing.duty.due())
            || !self.inbox.is_empty()
            || self.lifecycle.is_ending()
            || (self.handlers_ran && self.handlers_need_driver())
    }

    pub(super) fn handlers_need_driver(&self) -> bool {
        self.driver.misses(self.pipeline.poll_timeout())
            || (self.driver.is_paused() && self.pipeline.auto_read())
            || self.pipeline.closing().is_some()
    }

    /// The driver looks at everything.
    pub(super) fn wake_driver(&mut self, effects: &mut Effects) {
        if let Some(driver) = self.driver.take() {
            effects.driver = Some(driver);
        }
    }

    fn admit(&mut self, effects: &mut Effects) {
        if self.is_writable() && self.lifecycle.refused().is_none() {
            let high = self.pipeline.watermarks().high;
            let pending = self.pipeline.pending_bytes();
            self.in_flight.admit(pending, high, &mut effects.wakers);
        }
    }

    /// Counts the bytes that the connection holds.
    #[inline]
    pub(in crate::connection) fn count_memory(&mut self, effects: &mut Effects) {
        let held = self.pipeline.pending_bytes()
            + self.work.bytes()
            + self.in_flight.held()
            + self.streams.queued()
            + self.kept;
        self.account.settle(held, &mut effects.wakers);
    }

    /// Whether the connection holds only output.
    pub(in crate::connection) fn holds_output_only(&self) -> bool {
        let others = self.work.bytes() + self.in_flight.held() + self.streams.queued();
        others == 0 && self.pipeline.pending_bytes() > 0
    }

    pub(in crate::connection) fn settings(&self) -> &ChannelSettings {
        &self.settings
    }

    pub(in crate::connection) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// What the peer said of itself, once it has.
    pub(in crate::connection) fn peer_hello(&self) -> Option<&Arc<Hello>> {
        self.peer.hello()
    }

    /// The names of the pipeline's handlers.
    pub(in crate::connection) fn handler_names(&self) -> impl Iterator<Item = &str> {
        self.pipeline.names()
    }

    #[inline]
    pub(in crate::connection) fn is_writable(&self) -> bool {
        self.pipeline.is_writable()
    }

    /// Requests whose callers wait for the answer.
    pub(in crate::connection) fn requests_in_work(&self) -> usize {
        self.work.wanted()
    }

    /// Whether the peer has answered a call.
    pub(in crate::connection) fn has_answered(&self) -> bool {
        self.in_flight.has_answered()
    }

    /// Calls or streams are under way.
    pub(super) fn has_calls(&self) -> bool {
        !self.in_flight.is_idle() || !self.streams.is_empty()
    }

    /// Neither calls of ours nor requests of the peer are under way, and all is written.
    pub(in crate::connection) fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.has_calls() && self.is_flushed()
    }

    /// What must hold whenever the lock is released. In debug builds only.
    #[cfg(debug_assertions)]
    pub(in crate::connection) fn check_invariants(&self, effects: &Effects) {
        let seen_to = self.flushing.duty.is_seen_to(self.pipeline.has_output());
        debug_assert!(
            seen_to
                || effects.flush.is_some()
                || self.flushing.following > 0
                || self.driver.is_running(),
            "output is left that nobody flushes"
        );
        if self.lifecycle.is_closed() {
            debug_assert!(!self.pipeline.has_output(), "a closed connection holds output");
            debug_assert!(self.in_flight.is_idle(), "calls wait on a closed connection");
        }
    }

    /// For the check of invariants: a thread that has left the lock flushes next (1), or has done so
    /// (-1).
    #[cfg(debug_assertions)]
    pub(in crate::connection) fn flush_follows(&mut self, change: i32) {
        self.flushing.following += change;
    }

    /// For the check of invariants: the driver runs, and looks at everything before it stops.
    #[cfg(debug_assertions)]
    pub(in crate::connection) fn set_driver_running(&mut self, running: bool) {
        self.driver.set_running(running);
    }
}

/// Changes that tests make by themselves.
#[cfg(test)]
impl ConnectionState {
    /// Somebody has promised to flush.
    pub(in crate::connection) fn promise_flush(&mut self) {
        self.flushing.duty.claim();
    }

    /// A stream of the peer is open.
    pub(in crate::connection) fn open_incoming(&mut self, id: u64, effects: &mut Effects) {
        self.streams.open_incoming(id, &mut effects.wakers);
    }

    /// The peer has sent its hello.
    pub(in crate::connection) fn greet(&mut self, hello: Hello, effects: &mut Effects) {
        self.peer.greet(hello, &mut effects.wakers);
    }
}
