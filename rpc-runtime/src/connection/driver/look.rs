//! [`DriverState`]: what a driver knows beside the connection's state, and its look at both.

use std::task::Context;
use std::time::{Duration, Instant};

use crate::budget::Level;
use crate::connection::channel::Channel;
use crate::connection::pace::Pace;
use crate::connection::read_buffer::ReadBuffer;
use crate::connection::read_gate::{Demand, ReadGate};
use crate::connection::state::{ConnectionState, Effects, ReadDemand};
use crate::connection::timers::{Timers, earlier};
use crate::connection::unwritten::Unwritten;
use crate::error::RpcError;
use crate::protocol::Frame;

/// The window in which the rate of a frame being read is measured.
pub(super) const FRAME_WINDOW: Duration = Duration::from_secs(15);
/// As many requests are handled at first, and twice as many each time while the answers find room: a
/// few small requests can ask for more than there is memory.
pub(super) const FIRST_REQUESTS: usize = 8;

/// What a driver knows beside the connection's state.
pub(super) struct DriverState {
    /// An end that only calls reads also while too much is in work or waits to be written.
    always_reads: bool,
    /// The time, read once for all that one wake-up does before a user's code runs.
    pub(super) now: Instant,
    pub(super) input: ReadBuffer,
    pub(super) gate: ReadGate,
    /// Of the frame that is being read.
    pace: Pace,
    /// Requests to be handled before another look at the room for answers.
    pub(super) at_once: usize,
    /// Reading has stopped since all was read.
    unread: bool,
    /// What the operating system did not take. While not empty, the connection's flush duty is the
    /// driver's.
    pub(super) unwritten: Unwritten,
    pub(super) timers: Timers,
    /// The driver has woken itself.
    #[cfg(debug_assertions)]
    pub(super) yielded: bool,
}

/// What is next.
pub(super) enum Turn {
    Read,
    Wait,
    End(RpcError),
}

/// What the driver found.
pub(super) struct Found {
    pub(super) turn: Turn,
    /// What it flushes may change what is next.
    pub(super) flushes: bool,
    /// Frames that handlers sent to the tail while nothing was being read.
    pub(super) inbox: Vec<Frame<'static>>,
    /// The level at which the connection has waited too long for memory.
    pub(super) starved: Option<Level>,
    /// It is time to look whether the peer is still there.
    pub(super) peer_may_have_gone: bool,
    /// The connection has been at rest; memory may go.
    pub(super) rested: bool,
}

impl DriverState {
    pub(super) fn new(channel: &Channel, always_reads: bool, now: Instant) -> Self {
        Self {
            always_reads,
            now,
            input: ReadBuffer::new(channel.account().large_from()),
            gate: ReadGate::default(),
            pace: Pace::default(),
            at_once: FIRST_REQUESTS,
            unread: false,
            unwritten: Unwritten::default(),
            timers: Timers::new(channel.settings().handshake_timeout),
            #[cfg(debug_assertions)]
            yielded: false,
        }
    }

    /// Nothing waits to be taken by the operating system.
    pub(super) fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// All that has arrived was read. Returns whether that is new.
    pub(super) fn all_is_read(&mut self) -> bool {
        std::mem::take(&mut self.unread)
    }

    /// Whether the peer sends the frame that it has begun too slowly. Says so once.
    pub(super) fn sends_too_slowly(&mut self) -> bool {
        let slow = self.pace.is_slow(FRAME_WINDOW, self.now);
        if slow {
            self.pace.end();
        }
        slow
    }

    /// Bytes came that are no whole frame yet; `least` are enough for a window.
    pub(super) fn partly_read(&mut self, least: usize) {
        self.pace.add(self.input.fresh(), least, self.now);
    }

    /// Whole frames came.
    pub(super) fn frames_came(&mut self) {
        self.timers.greeted();
        self.gate.consumed();
        self.pace.end();
    }

    /// Registers for wake-ups, runs what is due, and says what is next.
    pub(super) fn look(
        &mut self,
        state: &mut ConnectionState,
        cx: &mut Context<'_>,
        effects: &mut Effects,
    ) -> Found {
        let now = self.now;
        if let Err(cause) = state.begin_turn(cx.waker(), now, effects) {
            return Found::end(cause);
        }
        if self.unwritten.is_empty()
            && let Some(unwritten) = state.take_unwritten()
        {
            self.unwritten = unwritten;
        }
        if state.wake_awaiting_room(effects) {
            // Another turn, behind the tasks that are woken now.
            cx.waker().wake_by_ref();
        }
        let demand = state.read_demand(!self.always_reads);
        self.gate.settle(state, &mut self.input, effects);
        let open = demand.allowed && self.has_memory(state, demand, cx, effects);
        let limited_streams = demand.streams && !self.always_reads;
        let starved = self.gate.is_starved(demand.allowed, limited_streams, now);
        let turn = self.next(state, demand, open, effects);
        let reads = !matches!(turn, Turn::Wait);
        self.unread |= !reads;
        self.watch_frame(state, reads);
        if !state.is_writable() {
            self.at_once = 1;
        }
        let peer_may_have_gone = self.timers.checks_closed(now, reads);
        let rested = self.timers.has_rested(now, || state.is_idle());
        if rested {
            state.shrink();
            self.input.shrink_pool();
        }
        state.look_at_output(now, effects);
        let flushes = effects.flush.is_some();
        self.arm(state, reads);
        Found { turn, flushes, inbox: state.take_inbox(), starved, peer_may_have_gone, rested }
    }

    fn has_memory(
        &mut self,
        state: &mut ConnectionState,
        demand: ReadDemand,
        cx: &mut Context<'_>,
        effects: &mut Effects,
    ) -> bool {
        let forced = demand.streams || self.always_reads;
        let demand = Demand { forced, always: self.always_reads, now: self.now };
        self.gate.is_open(state, &self.input, demand, cx, effects)
    }

    fn next(
        &mut self,
        state: &mut ConnectionState,
        demand: ReadDemand,
        open: bool,
        effects: &mut Effects,
    ) -> Turn {
        if let Some(cause) = state.closing(effects) {
            // Nothing is read any more, so no answer can come: nobody is to wait for what is still
            // to be written, least of all if the peer takes nothing.
            let must_close = self.timers.must_close(self.now);
            return if state.is_flushed() || must_close { Turn::End(cause) } else { Turn::Wait };
        }
        // What came while nothing was read may be requests.
        let unseen = demand.allowed && (self.unread || self.input.has_frames());
        match state.end_due(self.now).filter(|_| !unseen) {
            Some(cause) => Turn::End(cause),
            None if open => Turn::Read,
            None => Turn::Wait,
        }
    }

    /// Measures the rate at which the peer sends the frame that it has begun.
    fn watch_frame(&mut self, state: &ConnectionState, reads: bool) {
        if reads && self.input.is_begun() && state.settings().min_rate > 0 {
            self.pace.begin(self.now);
        } else {
            self.pace.end();
        }
    }

    /// Sets the time at which the driver wakes by itself.
    fn arm(&mut self, state: &mut ConnectionState, reads: bool) {
        let handlers = state.handlers_due();
        let relied_on = state.peer_heartbeat_interval().filter(|_| handlers.is_none());
        let others = [
            handlers,
            self.timers.sign_of_life(self.now, relied_on),
            self.unwritten.stalls_at(state.settings().slow_reader_timeout),
            self.pace.due(FRAME_WINDOW),
            self.gate.starves_at(),
            self.timers.handshake().filter(|_| reads),
        ];
        let next = state.due().into_iter().fold(None, earlier);
        let next = others.into_iter().fold(next, earlier);
        state.arm(self.timers.arm(self.now, next));
    }
}

impl Found {
    fn end(cause: RpcError) -> Self {
        Self {
            turn: Turn::End(cause),
            flushes: false,
            inbox: Vec::new(),
            starved: None,
            peer_may_have_gone: false,
            rested: false,
        }
    }
}
