//! What is behind a channel's lock, and what that state allows.

pub(in crate::connection) mod tail;
pub(in crate::connection) mod waiters;
pub(in crate::connection) mod work;

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use self::tail::ChannelTail;
use self::waiters::Waiters;
use self::work::Work;
use super::LEAVING;
use super::driver::MAX_REQUESTS;
use super::flush::Rest;
use super::streams::Streams;
use crate::budget::Account;
use crate::connection::in_flight::InFlight;
use crate::error::RpcError;
use crate::handlers::MIN_REQUESTED_INTERVAL;
use crate::observe::Observer;
use crate::pipeline::Pipeline;
use crate::protocol::{Frame, Header, Hello, Kind, Output};

#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) enum State {
    Open,
    /// What is in flight goes on, nothing new is sent, for this reason.
    Draining(RpcError),
    Closed(RpcError),
}

pub(in crate::connection) struct Core {
    pub(in crate::connection) account: Arc<Account>,
    pub(in crate::connection) observer: Observer,
    /// Bytes of buffers that the driver keeps for the next large frame.
    pub(in crate::connection) kept: usize,
    pub(in crate::connection) pipeline: Pipeline,
    pub(in crate::connection) in_flight: InFlight,
    pub(in crate::connection) work: Work,
    pub(in crate::connection) streams: Streams,
    /// Streams that wait until the channel is writable again.
    pub(in crate::connection) await_room: Waiters,
    pub(in crate::connection) state: State,
    /// Frames that were written and not yet taken out to be sent.
    pub(in crate::connection) gathered: usize,
    /// What has gathered leaves in several writes, so that the peer can begin.
    pub(in crate::connection) split: bool,
    /// Somebody has promised to flush.
    pub(in crate::connection) duty: bool,
    /// When the driver sees whether a caller has kept its promise.
    pub(in crate::connection) duty_due: Option<Instant>,
    /// Somebody writes, and looks again before it stops.
    pub(in crate::connection) writing: bool,
    /// What the operating system did not take; for the driver to write.
    pub(in crate::connection) rest: Rest,
    /// An empty buffer, kept for its allocation.
    pub(in crate::connection) spare: Output,
    pub(in crate::connection) driver: Option<Waker>,
    /// The driver has stopped reading because a handler asked for it.
    pub(in crate::connection) paused: bool,
    /// When the driver wakes by itself.
    pub(in crate::connection) armed: Option<Instant>,
    /// Frames that handlers sent to the tail while nothing was being read.
    pub(in crate::connection) inbox: Vec<Frame<'static>>,
    pub(in crate::connection) peer_hello: Option<Arc<Hello>>,
    /// Who waits for the hello.
    pub(in crate::connection) await_hello: Option<Waker>,
    /// Who is told as soon as no new calls are taken.
    pub(in crate::connection) await_end: Option<Waker>,
    /// Why the peer is about to close, if it said so.
    pub(in crate::connection) peer_error: Option<RpcError>,
    /// Set once this end has said that it is about to close: when it may, if the peer has not
    /// greeted and nothing is under way.
    pub(in crate::connection) leaving: Option<Instant>,
    /// The peer is told why this end closes.
    pub(in crate::connection) explained: bool,
}

impl Core {
    /// Writes a frame, starting at the pipeline's tail.
    pub(in crate::connection) fn write(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
    ) -> Result<(), RpcError> {
        self.gathered += 1;
        let Self { pipeline, inbox, .. } = self;
        pipeline.write(frame, now, &mut ChannelTail::aside(inbox))
    }

    /// What is to be sent, in exchange for an empty buffer.
    pub(in crate::connection) fn take_output(&mut self, empty: Output) -> Output {
        self.gathered = 0;
        self.pipeline.take_output(empty)
    }

    /// So many frames have gathered that the peer had better begin with them.
    pub(in crate::connection) fn has_gathered(&self, enough: usize) -> bool {
        self.gathered >= enough && !self.writing
    }

    /// Takes on the duty to flush, unless somebody has it.
    pub(in crate::connection) fn claim_duty(&mut self) -> bool {
        !std::mem::replace(&mut self.duty, true)
    }

    /// Why no new calls are taken; `None` while they are.
    pub(in crate::connection) fn why_not_open(&self) -> Option<RpcError> {
        match &self.state {
            State::Open => None,
            State::Draining(cause) | State::Closed(cause) => Some(cause.clone()),
        }
    }

    /// Why a connection ends that comes to the end that one of its ends has announced.
    pub(in crate::connection) fn announced_end(&self) -> RpcError {
        let own = || RpcError::unavailable("this end was shut down");
        self.why_not_open().filter(|_| self.leaving.is_none()).unwrap_or_else(own)
    }

    /// The frame that grants shared credit, if the peer supports it and enough has accumulated.
    pub(in crate::connection) fn take_grant(&self) -> Option<(Header, [u8; 4])> {
        let knows = self.peer_hello.as_ref().is_some_and(|hello| hello.stream_window > 0);
        if knows { self.streams.take_grant() } else { None }
    }

    /// Tells the sender of a stream to stop.
    pub(in crate::connection) fn stop_sender(
        &mut self,
        id: u64,
        now: Instant,
    ) -> Result<(), RpcError> {
        self.write(Frame::bare(Header { id, ..Header::new(Kind::Cancel) }), now)
    }

    pub(in crate::connection) fn is_writable(&self) -> bool {
        self.pipeline.is_writable()
    }

    /// `bytes` bytes have left; calls that waited for room may go on.
    pub(in crate::connection) fn written(
        &mut self,
        bytes: usize,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) {
        let Self { pipeline, inbox, .. } = self;
        let was_writable = pipeline.is_writable();
        pipeline.written(bytes, now, &mut ChannelTail::aside(inbox));
        if !was_writable && pipeline.is_writable() {
            // It may have stopped reading.
            wakers.extend(self.driver.take());
            self.await_room.next_few(wakers);
        }
        if self.account.is_charged() {
            self.settle(wakers);
        }
        self.admit(wakers);
    }

    /// Drops the unwritten output. Nothing more is sent.
    pub(in crate::connection) fn drop_output(&mut self) {
        while self.pipeline.has_output() {
            let mut dropped = self.pipeline.take_output(Output::default());
            dropped.truncate(0);
        }
        self.pipeline.discard_pending();
        self.rest = Rest::default();
        self.spare = Output::default();
    }

    /// Wakes the next few tasks that wait for room, if there is room. Returns whether more wait.
    /// They are woken in a later turn, after the first have run.
    pub(in crate::connection) fn wake_waiting(&mut self, wakers: &mut Vec<Waker>) -> bool {
        if self.await_room.is_empty() || !self.is_writable() {
            return false;
        }
        self.await_room.next_few(wakers);
        !self.await_room.is_empty()
    }

    pub(in crate::connection) fn admit(&mut self, wakers: &mut Vec<Waker>) {
        if self.is_writable() && self.state == State::Open {
            let high = self.pipeline.watermarks().high;
            self.in_flight.admit(self.pipeline.pending_bytes(), high, wakers);
        }
    }

    /// The driver, if there is something for it that it does not know of.
    pub(in crate::connection) fn driver_if_needed(&mut self) -> Option<Waker> {
        let earlier = |at: Option<Instant>| match (at, self.armed) {
            (Some(at), Some(armed)) => at < armed,
            (at, None) => at.is_some(),
            (None, _) => false,
        };
        let needed = earlier(self.in_flight.earliest())
            || earlier(self.duty_due)
            || earlier(self.pipeline.poll_timeout())
            || (self.paused && self.pipeline.auto_read())
            || !self.inbox.is_empty()
            || self.pipeline.closing().is_some()
            || self.is_ending();
        if needed { self.driver.take() } else { None }
    }

    /// One of the ends has said that it is about to close.
    pub(in crate::connection) fn is_ending(&self) -> bool {
        self.is_draining() || self.leaving.is_some()
    }

    fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining(_))
    }

    /// What was written last says that or why the connection ends, and is not to be lost.
    pub(in crate::connection) fn has_last_words(&self) -> bool {
        let drains = self.is_draining() && self.pipeline.closing().is_none();
        self.explained || self.leaving.is_some() || drains
    }

    /// Calls or streams are under way.
    pub(in crate::connection) fn has_calls(&self) -> bool {
        !self.in_flight.is_idle() || !self.streams.is_empty()
    }

    /// Neither calls of ours nor requests of the peer are under way, and all is written.
    pub(in crate::connection) fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.has_calls() && self.is_flushed()
    }

    /// Nothing is left to be written, nor will be by somebody who promised.
    pub(in crate::connection) fn is_flushed(&self) -> bool {
        !self.pipeline.has_output() && !self.writing && !self.duty
    }

    /// Gives back memory that is only kept for what may come.
    pub(in crate::connection) fn shrink(&mut self) {
        self.spare = Output::default();
        self.in_flight.shrink();
        self.pipeline.shrink();
    }

    /// More is in work than a client was told it may have.
    pub(in crate::connection) fn is_overloaded(&self, max_concurrent_requests: usize) -> bool {
        self.work.len() > max_concurrent_requests
    }

    /// How many more requests may be taken now.
    pub(in crate::connection) fn room(&self, max_concurrent_requests: usize) -> usize {
        if !self.streams.is_empty() {
            return MAX_REQUESTS;
        }
        let free = max_concurrent_requests.saturating_add(1).saturating_sub(self.work.len());
        free.min(MAX_REQUESTS)
    }

    /// No new calls are sent here, and none that wait for their turn. Says whether that is new.
    pub(in crate::connection) fn retire(&mut self, wakers: &mut Vec<Waker>) -> bool {
        if self.state != State::Open {
            return false;
        }
        let unused = RpcError::unavailable("the connection is no longer used");
        self.in_flight.fail_queued(&unused, wakers);
        self.state = State::Draining(unused);
        wakers.extend(self.await_end.take());
        wakers.extend(self.driver.take());
        true
    }

    /// Tells the peer to send no new calls here. The caller has the duty to flush it if this says
    /// so.
    pub(in crate::connection) fn go_away(&mut self, now: Instant) -> bool {
        self.leaving = now.checked_add(LEAVING);
        // A full buffer is no reason to keep it back, and nothing else can fail here.
        let _ = self.write(Frame::of_kind(Kind::GoAway), now);
        self.claim_duty()
    }

    /// Fails the calls and streams under way; no new calls are taken.
    pub(in crate::connection) fn fail_calls(&mut self, cause: &RpcError, wakers: &mut Vec<Waker>) {
        self.in_flight.fail_all(cause, wakers);
        self.streams.fail_all(cause, wakers);
        if self.state == State::Open {
            self.state = State::Draining(cause.clone());
        }
        wakers.extend(self.await_end.take());
    }

    /// Whether an end that was announced can come now.
    #[inline]
    pub(in crate::connection) fn may_end(&self, now: Instant) -> bool {
        let asked = self.is_draining() && self.is_idle();
        asked || self.leaves_at().is_some_and(|leaves_at| leaves_at <= now)
    }

    /// When this end, which has said that it is about to close, does so by itself. A peer that has
    /// greeted is left to it: it closes once it has its answers, and it alone knows whether a request
    /// is on its way. One that never spoke may have nothing to do with this protocol.
    pub(in crate::connection) fn leaves_at(&self) -> Option<Instant> {
        self.leaving.filter(|_| self.peer_hello.is_none() && self.is_idle())
    }

    /// A request has arrived, or some of one: others may be on their way.
    pub(in crate::connection) fn stay(&mut self, now: Instant) {
        if self.leaving.is_some() {
            self.leaving = now.checked_add(LEAVING);
        }
    }

    /// Whether more may be read now.
    pub(in crate::connection) fn may_read(
        &mut self,
        max_concurrent_requests: usize,
        limited: bool,
    ) -> bool {
        // At the limit, a client that keeps to it is still read: it may cancel. Beyond it, not; but
        // requests in work may wait for items or credit of streams, which come the same way.
        let full =
            limited && self.is_overloaded(max_concurrent_requests) && self.streams.is_empty();
        let resume_below = if !full {
            0
        } else if self.work.len() - self.work.cancelled() <= max_concurrent_requests {
            // The client keeps to the limit: what it has cancelled ends soon, and the cancels of
            // what is left may be behind.
            max_concurrent_requests.saturating_add(1)
        } else {
            // Half of it must be done before reading goes on, or it would stop again at once.
            max_concurrent_requests.div_ceil(2)
        };
        self.work.set_resume_below(resume_below);
        self.pipeline.auto_read() && !full && (self.is_writable() || !limited)
    }

    /// How often the peer expects a sign of life, if it does.
    pub(in crate::connection) fn relied_on(&self) -> Option<Duration> {
        let told = self.peer_hello.as_ref().map_or(0, |hello| hello.heartbeat_ms);
        (told > 0).then(|| Duration::from_millis(told.into()).max(MIN_REQUESTED_INTERVAL))
    }

    /// Ends the calls whose deadlines have passed. Returns the frames that handlers sent to the
    /// tail in the meantime.
    pub(in crate::connection) fn run_deadlines(
        &mut self,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Vec<Frame<'static>> {
        self.in_flight.expire(now, wakers);
        self.admit(wakers);
        std::mem::take(&mut self.inbox)
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
        let due = self.pipeline.poll_timeout().is_some_and(|due| due <= now);
        if due {
            let Self { pipeline, inbox, .. } = self;
            let mut aside = ChannelTail::aside(inbox);
            if !reading {
                pipeline.read_complete(now, &mut aside);
            }
            pipeline.handle_timeout(now, &mut aside);
        }
        due
    }

    /// Bytes came that are no whole frame yet: the peer is alive.
    pub(in crate::connection) fn partly_read(&mut self, now: Instant) {
        self.stay(now);
        let Self { pipeline, inbox, .. } = self;
        pipeline.read_complete(now, &mut ChannelTail::aside(inbox));
    }
}
