//! The ways in which a connection ends.

use std::time::{Duration, Instant};

use super::{ConnectionState, Effects};
use crate::error::RpcError;
use crate::protocol::{Frame, Kind, error_frame};

/// How long a peer that has never greeted may be silent once it was told of the end.
const LEAVING: Duration = Duration::from_secs(1);

impl ConnectionState {
    /// Why no new calls are sent; `None` while they are.
    pub(in crate::connection) fn refused(&self) -> Option<&RpcError> {
        self.lifecycle.refused()
    }

    /// Wakes `waker` once no new calls are sent. If that is so already, returns why.
    pub(in crate::connection) fn watch_end(&mut self, waker: std::task::Waker) -> Option<RpcError> {
        self.lifecycle.watch(waker)
    }

    /// Why the connection has ended, if it has.
    pub(in crate::connection) fn closed(&self) -> Option<&RpcError> {
        self.lifecycle.closed()
    }

    /// Whether the hello of the peer has come. If not, `waker` is woken when it has.
    ///
    /// # Errors
    /// The connection ended first.
    pub(in crate::connection) fn poll_hello(
        &mut self,
        waker: &std::task::Waker,
    ) -> Result<bool, RpcError> {
        if self.peer.has_greeted() {
            return Ok(true);
        }
        if let Some(cause) = self.lifecycle.closed() {
            let why = format!("no hello came: {}", cause.message());
            return Err(RpcError::new(cause.status(), why).with_source(cause));
        }
        self.peer.await_hello(waker);
        Ok(false)
    }

    /// Why the connection ended: what the peer said, if it said anything.
    pub(in crate::connection) fn peer_error_or(&mut self, error: RpcError) -> RpcError {
        self.peer.error_or(error)
    }

    /// See `Channel::drain`. Returns whether it is new.
    pub(in crate::connection) fn drain(&mut self, effects: &mut Effects) -> bool {
        let unused = RpcError::unavailable("the connection is no longer used");
        let drains = self.lifecycle.drain(unused.clone(), &mut effects.wakers);
        if drains {
            self.in_flight.fail_queued(&unused, &mut effects.wakers);
            self.wake_driver(effects);
        }
        drains
    }

    /// See `Channel::goaway`.
    pub(in crate::connection) fn goaway(&mut self, now: Instant, effects: &mut Effects) {
        if self.lifecycle.tell(now.checked_add(LEAVING)) {
            // A full buffer is no reason to keep it back, and nothing else can fail here.
            let _ = self.write(Frame::of_kind(Kind::GoAway), now);
            self.flush_now(now, effects);
        }
    }

    /// See `Channel::fail`.
    pub(in crate::connection) fn fail(
        &mut self,
        error: RpcError,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.lifecycle.is_closed() {
            return;
        }
        // If it cannot be said, the connection ends all the same. The driver flushes.
        let _ = self.write(error_frame(0, &error), now);
        self.flush_now(now, effects);
        self.pipeline(|pipeline, tail| pipeline.close(error, now, tail));
        if let Some(cause) = self.pipeline.closing().cloned() {
            self.begin_closing(&cause, true, effects);
        }
        self.wake_driver(effects);
    }

    /// Nothing more is read. The calls and streams under way fail, since no answer can come; what
    /// was written still leaves. `told`: the peer was told why.
    pub(in crate::connection) fn begin_closing(
        &mut self,
        cause: &RpcError,
        told: bool,
        effects: &mut Effects,
    ) {
        self.lifecycle.begin_closing(cause, told, &mut effects.wakers);
        if self.has_calls() {
            self.in_flight.fail_all(cause, &mut effects.wakers);
            self.streams.fail_all(cause, &mut effects.wakers);
        }
    }

    /// See `Channel::close`.
    pub(in crate::connection) fn close(
        &mut self,
        cause: RpcError,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.lifecycle.is_closed() {
            return;
        }
        self.pipeline(|pipeline, tail| pipeline.channel_inactive(&cause, now, tail));
        self.in_flight.fail_all(&cause, &mut effects.wakers);
        self.streams.close(&cause, &mut effects.wakers);
        self.peer.close(&mut effects.wakers);
        self.lifecycle.close(cause, &mut effects.wakers);
        self.wake_driver(effects);
        self.drop_output();
        self.kept = 0;
        self.work.end(&mut effects.aborts);
        effects.closed = true;
    }

    /// What was written last says that or why the connection ends, and is not to be lost.
    pub(in crate::connection) fn has_last_words(&self) -> bool {
        self.lifecycle.has_last_words()
    }

    /// A request has arrived, or some of one: others may be on their way.
    pub(super) fn stay(&mut self, now: Instant) {
        self.lifecycle.stay(|| now.checked_add(LEAVING));
    }

    /// Whether an end that was announced can come now.
    #[inline]
    pub(super) fn may_end(&self, now: Instant) -> bool {
        if !self.lifecycle.is_ending() {
            return false;
        }
        let idle = self.lifecycle.ends_when_idle() && self.is_idle();
        idle || self.leaves_at().is_some_and(|leaves_at| leaves_at <= now)
    }

    /// When this end, which has said that it is about to close, does so by itself. A peer that has
    /// greeted is left to it: it closes once it has its answers, and it alone knows whether a request
    /// is on its way. One that never spoke may have nothing to do with this protocol.
    pub(super) fn leaves_at(&self) -> Option<Instant> {
        let told = self.lifecycle.told()?;
        (!self.peer.has_greeted() && self.is_idle()).then_some(told)
    }
}
