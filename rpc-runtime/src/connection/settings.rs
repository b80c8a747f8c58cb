//! [`ChannelSettings`]: the settings of a connection.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::{Budget, MemoryLimits};
use crate::handlers::Heartbeat;
use crate::observe::{Observer, Side};
use crate::pipeline::{Change, Watermarks};
use crate::protocol::{DEFAULT_MAX_PAYLOAD, DecodeLimits};

/// Settings of one connection. Both ends have the same kind; the default is a server's.
#[derive(Clone, Debug)]
pub(crate) struct ChannelSettings {
    /// Largest payload that is read or written, in bytes.
    pub(crate) max_payload: usize,
    /// The limits for decoding values of the peer.
    pub(crate) decode: DecodeLimits,
    pub(crate) watermarks: Watermarks,
    /// Calls that may be sent and unanswered; more wait for their turn.
    pub(crate) max_in_flight: usize,
    /// Requests that may be in work. Clients are told; from one with more, nothing is read.
    pub(crate) max_concurrent_requests: usize,
    /// Gathered frames that leave without waiting for more. `None`: as many as seem best.
    pub(crate) flush_after: Option<usize>,
    /// The time in which the peer must read the waiting output, or enough of it.
    pub(crate) slow_reader_timeout: Duration,
    /// The minimum rate at which the peer must send a frame that has begun and read waiting output,
    /// in bytes per second.
    pub(crate) min_rate: u32,
    /// Shared by all connections of a server or a client.
    pub(crate) budget: Arc<Budget>,
    /// How long the peer may take for its first frame. `None`: somebody else sees to that.
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) heartbeat: Heartbeat,
    /// Panic texts and causes of errors are sent to the peer.
    pub(crate) expose_internal_errors: bool,
    pub(crate) side: Side,
    pub(crate) observer: Observer,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            max_payload: DEFAULT_MAX_PAYLOAD,
            decode: DecodeLimits::new(),
            watermarks: Watermarks::default(),
            max_in_flight: 16_384,
            max_concurrent_requests: 1_024,
            flush_after: None,
            slow_reader_timeout: Duration::from_secs(30),
            min_rate: DEFAULT_MIN_RATE,
            budget: Budget::new(MemoryLimits::default(), Observer::new(Side::Client, false)),
            handshake_timeout: None,
            heartbeat: Heartbeat::default(),
            expose_internal_errors: false,
            side: Side::Server,
            observer: Observer::new(Side::Client, false),
        }
    }
}

/// Limit of the payload of frames that carry no user's data, whatever the limit of those is: a
/// hello of about a thousand services.
pub(crate) const MAX_CONTROL: usize = 64 << 10;
/// A fraction of the rate of the slowest usable links.
const DEFAULT_MIN_RATE: u32 = 4 << 10;
/// A shorter one would close connections that are merely busy.
pub(crate) const MIN_SLOW_READER_TIMEOUT: Duration = Duration::from_millis(100);

/// So many frames leave without waiting for more in any case; Netty's flush consolidation has the
/// same number.
const MAX_GATHERED: usize = 256;
/// So many gathered frames are worth a write of their own.
const WORTH_A_WRITE: usize = 16;
/// The frames that are under way leave in this many writes at least, while cores are idle, so that
/// the two ends work at the same time, each on a part of them.
const PARTS: usize = 4;

impl ChannelSettings {
    /// How many frames leave without waiting for more, when `under_way` are to be expected. `split`:
    /// there are idle cores.
    pub(crate) fn flush_after(&self, under_way: usize, split: bool) -> usize {
        let best = if split { WORTH_A_WRITE.max(under_way / PARTS) } else { MAX_GATHERED };
        self.flush_after.unwrap_or(best)
    }
}

/// Adds a user's handlers to the pipeline of a new connection.
pub(crate) type Initializer = Arc<dyn Fn() -> Vec<Change> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_parts_only_while_cores_are_idle() {
        let mut settings = ChannelSettings::default();
        let after = |settings: &ChannelSettings| {
            [(64, true), (1_000, true), (3, true), (64, false)]
                .map(|(under_way, split)| settings.flush_after(under_way, split))
        };
        assert_eq!(after(&settings), [16, 250, 16, MAX_GATHERED]);
        settings.flush_after = Some(7);
        assert_eq!(after(&settings), [7; 4]);
    }
}
