//! [`ReadGate`]: decides whether there is memory for more input.

use std::task::Context;
use std::time::{Duration, Instant};

use super::read_buffer::ReadBuffer;
use super::state::{ConnectionState, Effects};
use crate::budget::{Account, Claim, Level};

/// Time in which nothing becomes free for a waiting connection, until the connection that holds the
/// most is ended.
const STARVED: Duration = Duration::from_secs(10);
/// Minimum size of a claim.
pub(super) const LEAST: usize = 16 << 10;

/// Decides whether the driver may read. The bytes of a large frame are claimed before it is read,
/// and a connection that holds much does not read while others wait.
#[derive(Default)]
pub(super) struct ReadGate {
    claim: Option<Claim>,
    /// The claimed bytes were read.
    spent: bool,
    waits: Option<Waits>,
}

/// How badly the driver wants to read.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    /// Reading must continue if possible, since the holders of memory may wait for the next frames.
    pub(super) forced: bool,
    /// Also while only output is held. The peer stops reading while its own output waits, and one of
    /// the two ends must not.
    pub(super) always: bool,
    pub(super) now: Instant,
}

struct Waits {
    since: Instant,
    /// See [`Claim::progress`].
    at: (Level, u64),
}

impl ReadGate {
    /// Frames were consumed, so the next read needs a new claim.
    pub(super) fn consumed(&mut self) {
        self.spent = true;
    }

    /// Counts the held bytes in place of the claimed ones.
    #[inline]
    pub(super) fn settle(
        &mut self,
        state: &mut ConnectionState,
        input: &mut ReadBuffer,
        effects: &mut Effects,
    ) {
        state.set_kept(input.kept());
        state.count_memory(effects);
        if state.kept() > 0 || self.claim.is_some() {
            self.release(state, input, effects);
        }
        self.spent = false;
    }

    /// Frees kept buffers if others need the memory, and releases the claim if its frame was read
    /// or is no longer the next one.
    fn release(
        &mut self,
        state: &mut ConnectionState,
        input: &mut ReadBuffer,
        effects: &mut Effects,
    ) {
        if state.kept() > 0 && state.account().is_exhausted() {
            // Other connections can use it.
            input.shrink_pool();
            state.set_kept(0);
            state.count_memory(effects);
        }
        let spent = self.spent;
        let frame = input.large_frame();
        let other = |claim: &mut Claim| frame.is_some_and(|frame| frame != claim.bytes());
        if let Some(claim) = self.claim.take_if(|claim| spent || other(claim)) {
            claim.release(&mut effects.wakers);
        }
    }

    /// Whether more may be read now. If not, the task of `cx` is woken when it may.
    #[inline]
    pub(super) fn is_open(
        &mut self,
        state: &mut ConnectionState,
        input: &ReadBuffer,
        demand: Demand,
        cx: &mut Context<'_>,
        effects: &mut Effects,
    ) -> bool {
        let frame = input.large_frame();
        if self.claim.is_none() && frame.is_none() && may_read_small(state.account(), demand.forced)
        {
            return self.opened();
        }
        self.is_open_by_claim(state, frame, demand, cx, effects)
    }

    fn is_open_by_claim(
        &mut self,
        state: &mut ConnectionState,
        frame: Option<usize>,
        demand: Demand,
        cx: &mut Context<'_>,
        effects: &mut Effects,
    ) -> bool {
        let claim = self.claim.get_or_insert_with(|| state.account().claim(frame.unwrap_or(LEAST)));
        while claim.poll(cx).is_pending() {
            let output_only = || demand.always && state.holds_output_only();
            if demand.forced && (state.account().may_force(claim.bytes()) || output_only()) {
                claim.force();
                continue;
            }
            let own = claim.progress().is_some_and(|(level, _)| level == Level::Connection);
            if !(demand.forced && own && state.end_greediest_stream(demand.now, effects)) {
                return false;
            }
        }
        if frame.is_none() {
            // The claim was granted, but bytes may arrive at any time or never, so nothing is held
            // until then.
            self.claim.take().into_iter().for_each(|claim| claim.release(&mut effects.wakers));
        }
        self.opened()
    }

    fn opened(&mut self) -> bool {
        self.waits = None;
        true
    }

    /// The level at which the connection has waited too long, so that a connection must be ended
    /// there.
    ///
    /// A connection at its own limit waits for its own requests and does not count. With `streams`
    /// it counts, since its requests may wait for items that are not read.
    #[inline]
    pub(super) fn is_starved(&mut self, reads: bool, streams: bool, now: Instant) -> Option<Level> {
        if self.claim.is_none() {
            self.waits = None;
            return None;
        }
        self.has_starved(reads, streams, now)
    }

    fn has_starved(&mut self, reads: bool, streams: bool, now: Instant) -> Option<Level> {
        let Some(at) = self.claim.as_ref().filter(|_| reads).and_then(Claim::progress) else {
            self.waits = None;
            return None;
        };
        match &self.waits {
            Some(waits) if waits.at == at => {
                if now.saturating_duration_since(waits.since) < STARVED {
                    return None;
                }
            }
            _ => {
                self.waits = Some(Waits { since: now, at });
                return None;
            }
        }
        // The next check is due after the same time.
        self.waits = Some(Waits { since: now, at });
        Some(at.0).filter(|level| *level != Level::Connection || streams)
    }

    /// When to check for starvation.
    pub(super) fn starves_at(&self) -> Option<Instant> {
        self.waits.as_ref()?.since.checked_add(STARVED)
    }

    /// Ends the connection that holds the most at the level where this one waits. Must not be
    /// called under the lock.
    pub(super) fn end_greediest(&self, level: Level) {
        self.claim.iter().for_each(|claim| claim.end_greediest(level));
    }
}

/// Whether small frames may be read.
#[inline]
fn may_read_small(account: &Account, forced: bool) -> bool {
    let free = !account.is_charged() || !account.is_exhausted();
    free || (forced && account.may_force(LEAST))
}
