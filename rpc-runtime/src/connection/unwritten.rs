//! [`Unwritten`]: output that the operating system did not take.

use std::time::{Duration, Instant};

use super::pace::Pace;
use crate::protocol::Output;

/// Output that the operating system did not take at once. The driver writes it when there is room.
#[derive(Default)]
pub(super) struct Unwritten {
    output: Output,
    /// Where it begins.
    at: usize,
    pace: Pace,
}

impl Unwritten {
    /// What is behind the first `at` bytes of `output`. The peer is expected to read from `now` on.
    pub(super) fn new(output: Output, at: usize, now: Instant) -> Self {
        let mut pace = Pace::default();
        pace.begin(now);
        Self { output, at, pace }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.output.len() <= self.at
    }

    /// The output, and where the unwritten part begins.
    pub(super) fn remaining(&self) -> (&Output, usize) {
        (&self.output, self.at)
    }

    /// `bytes` more were written; `least` are enough for a window.
    pub(super) fn advance(&mut self, bytes: usize, least: usize, now: Instant) {
        self.at += bytes;
        self.pace.add(bytes, least, now);
    }

    /// Puts the next portion in the place of one that is written. What waits has been waiting: the
    /// portion does not begin a new window.
    pub(super) fn replace(&mut self, take: impl FnOnce(Output) -> Output) {
        self.output = take(std::mem::take(&mut self.output));
        self.at = 0;
    }

    /// All is written. Returns the buffer.
    pub(super) fn finish(&mut self) -> Output {
        std::mem::take(self).output
    }

    /// The time at which the peer will have read too slowly, if output waits.
    pub(super) fn stalls_at(&self, limit: Duration) -> Option<Instant> {
        self.pace.due(limit).filter(|_| !self.is_empty())
    }

    /// Whether the peer reads too slowly. Before it is judged, another check is due: a method may
    /// have blocked the thread that polls the sockets while the peer was reading. The next timer
    /// fires after the sockets were polled.
    pub(super) fn has_stalled(&mut self, limit: Duration, now: Instant) -> bool {
        !self.is_empty() && self.pace.is_slow(limit, now)
    }
}
