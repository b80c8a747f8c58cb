//! [`HeartbeatStats`]: what the heartbeats of a connection have shown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the heartbeats of a connection have shown so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeartbeatState {
    /// Pings that were sent.
    pub sent: u64,
    /// Pings that were sent since the last one that was answered.
    pub unanswered: u64,
    /// How long the last answer took, from ping to pong, with what the peer and the sending of this
    /// end took. `None` before the first.
    pub last_rtt: Option<Duration>,
    /// The same, smoothed: each answer moves it by an eighth, as TCP's (RFC 6298).
    pub smoothed_rtt: Option<Duration>,
}

impl HeartbeatState {
    pub(super) fn answered(&mut self, rtt: Duration) {
        let smoothed = self
            .smoothed_rtt
            .map_or(rtt, |smoothed| smoothed.saturating_sub(smoothed / 8).saturating_add(rtt / 8));
        (self.last_rtt, self.smoothed_rtt) = (Some(rtt), Some(smoothed));
    }
}

/// The heartbeats of one connection, to look at from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatStats(Arc<Mutex<HeartbeatState>>);

impl HeartbeatStats {
    /// What they have shown so far.
    pub fn state(&self) -> HeartbeatState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut HeartbeatState)) {
        update(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_moves_the_smoothed_round_trip_by_an_eighth() {
        let mut state = HeartbeatState::default();
        state.answered(Duration::from_millis(8));
        assert_eq!(state.smoothed_rtt, Some(Duration::from_millis(8)));
        state.answered(Duration::from_millis(80));
        assert_eq!(state.last_rtt, Some(Duration::from_millis(80)));
        assert_eq!(state.smoothed_rtt, Some(Duration::from_millis(17)));
    }
}
