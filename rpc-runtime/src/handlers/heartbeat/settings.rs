//! [`Heartbeat`]: how a connection is known to be alive.

use std::time::Duration;

use crate::error::RpcError;
use crate::observe::Side;

/// Who asks whether the other end is still there. Dubbo's generations, as a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeartbeatMode {
    /// Both ends ping when they have read or written nothing for an interval, and close when they
    /// have read nothing for the timeout. Dubbo 2.6.
    #[default]
    Bidirectional,
    /// The client pings when it has read nothing for an interval, and closes when it has read
    /// nothing for the timeout. The server closes when it has neither read nor written for the
    /// timeout. Dubbo 2.7.
    ///
    /// It takes no more than two frames an interval, half of what the other may take. But a server
    /// that has much to send notices later that nobody is there, and a client gives up on a
    /// connection while it sends a payload that takes longer than the timeout: its pings wait behind
    /// that.
    ///
    /// A server whose client sends no heartbeats of its own asks by itself, as in
    /// [`Bidirectional`](Self::Bidirectional).
    Client,
    /// This end asks nothing and never closes for silence. It still answers.
    Off,
}

const INTERVAL: Duration = Duration::from_secs(60);
/// Intervals without a sign of life after which a peer counts as gone, unless set otherwise.
const MISSED: u32 = 3;
/// Fewer would leave no time for an answer.
const LEAST_MISSED: u32 = 2;
/// What a peer asks for below this is not granted, so that none can make this end busy.
pub(crate) const SHORTEST_GRANTED: Duration = Duration::from_secs(1);

/// How a connection is known to be alive: who asks, how often, and how much silence is too much.
///
/// ```
/// use std::time::Duration;
/// use rpc_runtime::{Client, Heartbeat, HeartbeatMode};
///
/// let client = Client::builder().heartbeat(Heartbeat::default().interval(Duration::from_secs(10)));
/// # let _ = client.heartbeat(Heartbeat::default().mode(HeartbeatMode::Off));
/// ```
///
/// The ends tell each other their intervals when they connect, and both use the shorter one, each
/// with its own number of intervals as the timeout. So settings that do not match cannot cut a
/// healthy connection. One below a second is used only by an end that was set to it.
///
/// Anything that is read is a sign of life, not only an answer to a ping: a busy connection sends
/// no heartbeats, and one whose answers are slow is not closed while bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Heartbeat {
    pub(super) mode: HeartbeatMode,
    pub(super) interval: Duration,
    timeout: Option<Duration>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { mode: HeartbeatMode::default(), interval: INTERVAL, timeout: None }
    }
}

impl Heartbeat {
    /// Who asks. Default [`HeartbeatMode::Bidirectional`].
    pub fn mode(mut self, mode: HeartbeatMode) -> Self {
        self.mode = mode;
        self
    }

    /// How long nothing happens before this end asks. Default 60 s, Dubbo's. Not zero.
    ///
    /// Below half a second, a peer whose threads are all held by blocking code may be taken for dead:
    /// others notice that, and send a sign of life for it, after a third of a second at the earliest.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How much silence is too much. Default three intervals; two at least.
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
                "a heartbeat interval of zero: name a longer one, \
                 or turn heartbeats off with `HeartbeatMode::Off`",
            ));
        }
        let (timeout, least) = (self.too_long(), interval.saturating_mul(LEAST_MISSED));
        if timeout < least && self.mode != HeartbeatMode::Off {
            return Err(RpcError::invalid(format!(
                "a heartbeat timeout of {timeout:?} leaves no time for an answer: with an interval \
                 of {interval:?} it is {least:?} at least; or set a shorter interval"
            )));
        }
        Ok(())
    }

    /// What the peer is told: milliseconds, 0 for none.
    pub(crate) fn hello_ms(&self) -> u32 {
        match self.mode {
            HeartbeatMode::Off => 0,
            _ => u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX).max(1),
        }
    }

    /// The timeout that holds.
    pub(super) fn too_long(&self) -> Duration {
        self.timeout.unwrap_or_else(|| self.interval.saturating_mul(MISSED))
    }

    /// What holds at this `end` once the peer has told its interval.
    pub(super) fn agreed(self, side: Side, hello_ms: u32) -> Self {
        let client_asks = self.mode == HeartbeatMode::Client && side == Side::Server;
        if hello_ms == 0 {
            // It answers, but it does not ask.
            let mode = if client_asks { HeartbeatMode::Bidirectional } else { self.mode };
            return self.mode(mode);
        }
        let peer = Duration::from_millis(hello_ms.into());
        let shorter = |own: Duration, peer: Duration| own.min(peer.max(SHORTEST_GRANTED));
        // Who waits for the client's pings goes by the interval that the client uses.
        let interval =
            if client_asks { shorter(peer, self.interval) } else { shorter(self.interval, peer) };
        let timeout = scaled(self.too_long(), self.interval, interval);
        self.interval(interval).timeout(timeout.max(interval.saturating_mul(LEAST_MISSED)))
    }
}

/// As many times `to` as `timeout` is `from`.
fn scaled(timeout: Duration, from: Duration, to: Duration) -> Duration {
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
    fn agreed(own: Heartbeat, side: Side, hello_ms: u32) -> (Duration, Duration) {
        let agreed = own.agreed(side, hello_ms);
        (agreed.interval, agreed.too_long())
    }

    #[test]
    fn both_ends_take_the_shorter_interval_and_scale_their_timeouts() {
        for side in [Side::Client, Side::Server] {
            assert_eq!(agreed(every(60 * SECOND), side, 10_000), (10 * SECOND, 30 * SECOND));
            assert_eq!(agreed(every(10 * SECOND), side, 60_000), (10 * SECOND, 30 * SECOND));
            assert_eq!(agreed(every(10 * SECOND), side, 0), (10 * SECOND, 30 * SECOND));
            let patient = every(10 * SECOND).timeout(100 * SECOND);
            assert_eq!(agreed(patient, side, 5_000), (5 * SECOND, 50 * SECOND));
        }
    }

    #[test]
    fn a_peer_cannot_make_this_end_ask_more_often_than_each_second() {
        assert_eq!(agreed(every(60 * SECOND), Side::Client, 1), (SECOND, 3 * SECOND));
        assert_eq!(agreed(every(SECOND / 4), Side::Client, 1), (SECOND / 4, SECOND * 3 / 4));
    }

    #[test]
    fn a_server_that_waits_for_pings_goes_by_the_interval_of_the_client() {
        let impatient = every(SECOND / 10).mode(HeartbeatMode::Client);
        let client = every(60 * SECOND).agreed(Side::Client, impatient.hello_ms());
        let server = impatient.agreed(Side::Server, every(60 * SECOND).hello_ms());
        assert_eq!(client.interval, SECOND, "which is what is granted");
        assert_eq!(server.too_long(), 3 * SECOND);
        let unasked = impatient.agreed(Side::Server, 0);
        assert_eq!(unasked.mode, HeartbeatMode::Bidirectional, "the client never asks");
    }

    #[test]
    fn settings_that_could_not_work_are_refused_with_what_would() {
        let zero = every(Duration::ZERO).check().unwrap_err();
        assert!(zero.is_invalid() && zero.message().contains("HeartbeatMode::Off"), "{zero}");
        let short = every(10 * SECOND).timeout(19 * SECOND).check().unwrap_err();
        assert!(short.is_invalid() && short.message().contains("it is 20s at least"), "{short}");
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
                    let (interval, timeout) = agreed(own.mode(mode), side, hello_ms);
                    assert!(timeout >= interval.saturating_mul(2), "{interval:?} {timeout:?}");
                }
            }
        }
    }
}
