//! [`Heartbeat`]: settings of the liveness checks of a connection.

use std::time::Duration;

use crate::error::RpcError;
use crate::observe::Side;

/// Which end sends pings. The modes are those of Dubbo 2.6 and 2.7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeartbeatMode {
    /// Both ends send a ping after an interval without a read or without a write. Both close the
    /// connection after the timeout without a read. Dubbo 2.6.
    #[default]
    Bidirectional,
    /// The client sends a ping after an interval without a read, and closes the connection after
    /// the timeout without a read. The server closes it after the timeout without a read or write.
    /// Dubbo 2.7.
    ///
    /// This takes at most two frames per interval, half as many as
    /// [`Bidirectional`](Self::Bidirectional). However, a server that is sending notices later that
    /// the client is gone. A client closes the connection while it sends a payload that takes
    /// longer than the timeout, since its pings wait behind the payload.
    ///
    /// If the client sends no heartbeats, the server uses [`Bidirectional`](Self::Bidirectional).
    Client,
    /// This end sends no pings and never closes a silent connection. It still answers pings.
    Off,
}

const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
/// Default timeout in intervals.
const DEFAULT_MISSED: u32 = 3;
/// Minimum timeout in intervals. Fewer would leave no time for a pong.
const MIN_MISSED: u32 = 2;
/// Minimum interval that a peer can request, so that no peer can cause much work.
pub(crate) const MIN_REQUESTED_INTERVAL: Duration = Duration::from_secs(1);

/// Settings of the liveness checks of a connection: mode, interval and timeout.
///
/// ```
/// use std::time::Duration;
/// use rpc_runtime::{Client, Heartbeat, HeartbeatMode};
///
/// let client = Client::builder().heartbeat(Heartbeat::default().interval(Duration::from_secs(10)));
/// # let _ = client.heartbeat(Heartbeat::default().mode(HeartbeatMode::Off));
/// ```
///
/// The ends exchange their intervals when they connect, and both use the shorter one. Each keeps
/// its own ratio of timeout to interval. So different settings cannot close a healthy connection.
/// An interval below one second is used only by an end that is set to it.
///
/// Any received bytes show that the peer is alive, not only pongs. A busy connection sends no
/// heartbeats, and a connection with slow responses stays open while bytes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Heartbeat {
    pub(super) mode: HeartbeatMode,
    pub(super) interval: Duration,
    timeout: Option<Duration>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { mode: HeartbeatMode::default(), interval: DEFAULT_INTERVAL, timeout: None }
    }
}

impl Heartbeat {
    /// Sets which end sends pings. Default [`HeartbeatMode::Bidirectional`].
    pub fn mode(mut self, mode: HeartbeatMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the time without activity after which a ping is sent. Default 60 s, as in Dubbo. Must
    /// not be zero.
    ///
    /// With less than half a second, a peer whose threads are all blocked may be considered dead. A
    /// watchdog thread of its process sends a pong, but not before a third of a second has passed.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the time without activity after which the connection is closed. Default three
    /// intervals; at least two.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// # Errors
    /// The interval is zero, or the timeout shorter than two intervals.
    pub(crate) fn check(&self) -> Result<(), RpcError> {
        let Self { interval, .. } = *self;
        if interval.is_zero() {
            return Err(RpcError::invalid(
                "the heartbeat interval is zero: set a longer one, \
                 or turn heartbeats off with `HeartbeatMode::Off`",
            ));
        }
        let (timeout, least) = (self.effective_timeout(), interval.saturating_mul(MIN_MISSED));
        if timeout < least && self.mode != HeartbeatMode::Off {
            return Err(RpcError::invalid(format!(
                "a heartbeat timeout of {timeout:?} leaves no time for a pong: with an interval of \
                 {interval:?} it must be {least:?} at least; or set a shorter interval"
            )));
        }
        Ok(())
    }

    /// The interval that the hello announces, in milliseconds; 0 for none.
    pub(crate) fn hello_ms(&self) -> u32 {
        match self.mode {
            HeartbeatMode::Off => 0,
            _ => u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX).max(1),
        }
    }

    /// The configured or the default timeout.
    pub(super) fn effective_timeout(&self) -> Duration {
        self.timeout.unwrap_or_else(|| self.interval.saturating_mul(DEFAULT_MISSED))
    }

    /// The settings in effect at this end once the peer has announced its interval.
    pub(super) fn negotiated(self, side: Side, hello_ms: u32) -> Self {
        let client_pings = self.mode == HeartbeatMode::Client && side == Side::Server;
        if hello_ms == 0 {
            // The peer answers pings but sends none.
            let mode = if client_pings { HeartbeatMode::Bidirectional } else { self.mode };
            return self.mode(mode);
        }
        let peer = Duration::from_millis(hello_ms.into());
        let shorter = |own: Duration, peer: Duration| own.min(peer.max(MIN_REQUESTED_INTERVAL));
        // An end that waits for the client's pings uses the client's interval.
        let interval =
            if client_pings { shorter(peer, self.interval) } else { shorter(self.interval, peer) };
        let timeout = rescaled(self.effective_timeout(), self.interval, interval);
        self.interval(interval).timeout(timeout.max(interval.saturating_mul(MIN_MISSED)))
    }
}

/// Scales `timeout` by the ratio of `to` to `from`.
fn rescaled(timeout: Duration, from: Duration, to: Duration) -> Duration {
    let nanos = timeout.as_nanos().checked_mul(to.as_nanos());
    let nanos = nanos.and_then(|nanos| nanos.checked_div(from.as_nanos()));
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).map_or(timeout, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn every(interval: Duration) -> Heartbeat {
        Heartbeat::default().interval(interval)
    }

    /// Interval and timeout.
    fn negotiated(own: Heartbeat, side: Side, hello_ms: u32) -> (Duration, Duration) {
        let negotiated = own.negotiated(side, hello_ms);
        (negotiated.interval, negotiated.effective_timeout())
    }

    #[test]
    fn both_ends_take_the_shorter_interval_and_scale_their_timeouts() {
        for side in [Side::Client, Side::Server] {
            assert_eq!(negotiated(every(60 * SECOND), side, 10_000), (10 * SECOND, 30 * SECOND));
            assert_eq!(negotiated(every(10 * SECOND), side, 60_000), (10 * SECOND, 30 * SECOND));
            assert_eq!(negotiated(every(10 * SECOND), side, 0), (10 * SECOND, 30 * SECOND));
            let patient = every(10 * SECOND).timeout(100 * SECOND);
            assert_eq!(negotiated(patient, side, 5_000), (5 * SECOND, 50 * SECOND));
        }
    }

    #[test]
    fn a_peer_cannot_make_this_end_ask_more_often_than_each_second() {
        assert_eq!(negotiated(every(60 * SECOND), Side::Client, 1), (SECOND, 3 * SECOND));
        assert_eq!(negotiated(every(SECOND / 4), Side::Client, 1), (SECOND / 4, SECOND * 3 / 4));
    }

    #[test]
    fn a_server_that_waits_for_pings_goes_by_the_interval_of_the_client() {
        let impatient = every(SECOND / 10).mode(HeartbeatMode::Client);
        let client = every(60 * SECOND).negotiated(Side::Client, impatient.hello_ms());
        let server = impatient.negotiated(Side::Server, every(60 * SECOND).hello_ms());
        assert_eq!(client.interval, SECOND, "which is what is granted");
        assert_eq!(server.effective_timeout(), 3 * SECOND);
        let unasked = impatient.negotiated(Side::Server, 0);
        assert_eq!(unasked.mode, HeartbeatMode::Bidirectional, "the client never asks");
    }

    #[test]
    fn settings_that_could_not_work_are_refused_with_what_would() {
        let zero = every(Duration::ZERO).check().unwrap_err();
        assert!(zero.is_invalid() && zero.message().contains("HeartbeatMode::Off"), "{zero}");
        let short = every(10 * SECOND).timeout(19 * SECOND).check().unwrap_err();
        assert!(
            short.is_invalid() && short.message().contains("it must be 20s at least"),
            "{short}"
        );
        every(10 * SECOND).timeout(20 * SECOND).check().unwrap();
        every(Duration::MAX).check().unwrap();
    }

    #[test]
    fn what_is_told_is_never_mistaken_for_none() {
        assert_eq!(Heartbeat::default().hello_ms(), 60_000);
        assert_eq!(every(Duration::from_nanos(1)).hello_ms(), 1);
        assert_eq!(every(Duration::MAX).hello_ms(), u32::MAX);
        assert_eq!(Heartbeat::default().mode(HeartbeatMode::Off).hello_ms(), 0);
    }

    #[test]
    fn no_interval_of_a_peer_overflows() {
        let long = every(Duration::MAX);
        for (own, hello_ms) in [
            (long, 1),
            (long, u32::MAX),
            (long.timeout(Duration::MAX), 7),
            (every(SECOND / 1_000_000), u32::MAX),
        ] {
            for side in [Side::Client, Side::Server] {
                for mode in [HeartbeatMode::Bidirectional, HeartbeatMode::Client] {
                    let (interval, timeout) = negotiated(own.mode(mode), side, hello_ms);
                    assert!(timeout >= interval.saturating_mul(2), "{interval:?} {timeout:?}");
                }
            }
        }
    }
}
