//! [`HeartbeatStats`]: statistics of the heartbeats of a connection.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::sync::Mutex;

/// Statistics of the heartbeats of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeartbeatState {
    /// Number of pings sent.
    pub sent: u64,
    /// Number of pings sent since the last answered one.
    pub unanswered: u64,
    /// Time from the last answered ping to its pong. It includes the delays of both ends. `None`
    /// before the first pong.
    pub last_rtt: Option<Duration>,
    /// Smoothed round-trip time. Each pong has a weight of one eighth, as in TCP (RFC 6298).
    pub smoothed_rtt: Option<Duration>,
}

impl HeartbeatState {
    pub(super) fn pong_received(&mut self, rtt: Duration) {
        let smoothed = self
            .smoothed_rtt
            .map_or(rtt, |smoothed| smoothed.saturating_sub(smoothed / 8).saturating_add(rtt / 8));
        (self.last_rtt, self.smoothed_rtt) = (Some(rtt), Some(smoothed));
    }
}

/// Shared access to the heartbeat statistics of one connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatStats(Arc<Mutex<HeartbeatState>>);

impl HeartbeatStats {
    /// The current statistics.
    pub fn state(&self) -> HeartbeatState {
        *self.0.lock()
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut HeartbeatState)) {
        update(&mut self.0.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_moves_the_smoothed_round_trip_by_an_eighth() {
        let mut state = HeartbeatState::default();
        state.pong_received(Duration::from_millis(8));
        assert_eq!(state.smoothed_rtt, Some(Duration::from_millis(8)));
        state.pong_received(Duration::from_millis(80));
        assert_eq!(state.last_rtt, Some(Duration::from_millis(80)));
        assert_eq!(state.smoothed_rtt, Some(Duration::from_millis(17)));
    }
}
