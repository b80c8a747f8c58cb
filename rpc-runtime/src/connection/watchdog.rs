//! The watchdog: a thread that gives signs of life for connections whose tasks do not run.
//!
//! Heartbeats are answered by a connection's driver, a task. If methods hold all the threads of its
//! runtime, or the one that polls it, it does not run, and the peer would take a busy process for
//! a dead one. (Kafka's brokers lost their sessions like that.) So one thread of the process looks
//! from time to time for drivers that are overdue, and writes a pong for them that nobody asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::{Channel, State, clock};
use crate::protocol::{Frame, Kind};

/// A driver that has not run for this long after its wake-up is delayed.
const OVERDUE: Duration = Duration::from_millis(250);
/// Bounds of the watchdog's interval: a quarter of the shortest heartbeat interval that an end of an
/// open connection relies on.
const SHORTEST_TICK: Duration = Duration::from_millis(100);
const LONGEST_TICK: Duration = Duration::from_secs(15);

static WATCHDOG: Watchdog = Watchdog::new();
static THREAD: OnceLock<Option<thread::Thread>> = OnceLock::new();

struct Watchdog {
    watched: Mutex<Vec<Weak<Channel>>>,
    /// In milliseconds.
    tick: AtomicU64,
}

/// Sends signs of life for the channel while its driver is delayed, until the channel is dropped.
pub(super) fn watch(channel: &Arc<Channel>) {
    WATCHDOG.watch(channel);
    THREAD.get_or_init(|| {
        let watchdog = thread::Builder::new().name("rpc-watchdog".into()).spawn(run);
        watchdog
            .inspect_err(
                |error| tracing::warn!(%error, "no watchdog for heartbeats could be started"),
            )
            .map(|watchdog| watchdog.thread().clone())
            .ok()
    });
    if let Some(interval) = channel.told_interval() {
        expect_interval(interval);
    }
}

/// Tells the watchdog that an end of a watched channel relies on a sign of life in each such interval.
/// Call it after [`Channel::expected_interval`] has changed; otherwise the watchdog may forget it
/// again.
pub(super) fn expect_interval(interval: Duration) {
    if WATCHDOG.expect(interval)
        && let Some(Some(watchdog)) = THREAD.get()
    {
        watchdog.unpark();
    }
}

fn run() {
    loop {
        thread::park_timeout(Duration::from_millis(WATCHDOG.tick.load(Ordering::Acquire)));
        WATCHDOG.look(clock());
    }
}

impl Watchdog {
    const fn new() -> Self {
        let tick = AtomicU64::new(LONGEST_TICK.as_millis() as u64);
        Self { watched: Mutex::new(Vec::new()), tick }
    }

    fn watch(&self, channel: &Arc<Channel>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // The next sweep is due at twice the remaining number, so a sweep costs constant time per
        // channel.
        if watched.len() == watched.capacity() {
            watched.retain(|channel| channel.strong_count() > 0);
            let left = watched.len();
            watched.reserve(left);
        }
        watched.push(Arc::downgrade(channel));
    }

    /// Checks four times per interval. Returns whether that is more often than before.
    fn expect(&self, interval: Duration) -> bool {
        let tick = (interval / 4).clamp(SHORTEST_TICK, LONGEST_TICK);
        let tick = u64::try_from(tick.as_millis()).unwrap_or(u64::MAX);
        self.tick.fetch_min(tick, Ordering::AcqRel) > tick
    }

    /// Checks all channels. The next check is due by the intervals of those that are still open, so
    /// a closed connection does not keep this thread busy.
    fn look(&self, now: Instant) {
        let before = self.tick.swap(LONGEST_TICK.as_millis() as u64, Ordering::AcqRel);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|channel| channel.strong_count() > 0);
        let channels: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        drop(watched);
        for channel in channels {
            match channel.expected_interval() {
                Ok(interval) => drop(interval.map(|interval| self.expect(interval))),
                Err(Locked) => drop(self.tick.fetch_min(before, Ordering::AcqRel)),
            }
            // A user's handler or waker that panics, or what is dropped with the last of a channel, is
            // to end this thread no more than it ends a worker.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                channel.give_sign_of_life(now);
                drop(channel);
            }));
        }
    }
}

/// The channel's lock is held.
struct Locked;

impl Channel {
    /// The interval that was announced to the peer, which relies on it.
    fn told_interval(&self) -> Option<Duration> {
        let told = self.settings.heartbeat.hello_ms();
        (told > 0).then(|| Duration::from_millis(told.into()))
    }

    /// The shortest interval in which an end of the open channel relies on a sign of life.
    fn expected_interval(&self) -> Result<Option<Duration>, Locked> {
        let core = self.core.0.try_lock().map_err(|_| Locked)?;
        if matches!(core.state, State::Closed(_)) {
            return Ok(None);
        }
        Ok(self.told_interval().into_iter().chain(core.relied_on()).min())
    }

    /// Writes an unsolicited pong if the driver is overdue.
    fn give_sign_of_life(&self, now: Instant) {
        // Whoever holds the lock is at work on the channel.
        let Ok(mut core) = self.core.0.try_lock() else { return };
        let overdue =
            core.armed.and_then(|due| due.checked_add(OVERDUE)).is_some_and(|latest| latest <= now);
        if !overdue || matches!(core.state, State::Closed(_)) || core.pipeline.heartbeat_bytes() > 0
        {
            return;
        }
        // Not being able to is no reason to end a connection.
        let written = core.write(Frame::of_kind(Kind::Pong), now).is_ok();
        drop(core);
        if written {
            tracing::debug!(peer = %self.peer, "the connection's task is held up; a sign of life was sent for it");
            self.flush(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ChannelSettings;
    use crate::error::RpcError;
    use crate::handlers::Heartbeat;
    use crate::protocol::Hello;
    use crate::transport::raw::pair;

    #[tokio::test]
    async fn the_guard_is_as_busy_as_open_connections_want_it_and_no_longer() {
        let watchdog = Watchdog::new();
        let tick = || Duration::from_millis(watchdog.tick.load(Ordering::Relaxed));
        let open = async |interval| {
            let heartbeat = Heartbeat::default().interval(Duration::from_secs(interval));
            let settings = ChannelSettings { heartbeat, ..ChannelSettings::default() };
            let (transport, raw) = pair().await;
            let (channel, _) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
            watchdog.watch(&channel);
            (channel, raw)
        };
        let (calm, busy) = (open(40).await, open(8).await);
        // What a peer asks for is in its hello.
        busy.0.lock().peer_hello = Some(Arc::new(Hello { heartbeat_ms: 1, ..Hello::default() }));
        assert!(watchdog.expect(Duration::from_secs(1)));
        for _ in 0..2 {
            watchdog.look(clock());
            assert_eq!(tick(), Duration::from_millis(250));
        }
        busy.0.close(RpcError::unavailable("the test is over"));
        watchdog.look(clock());
        assert_eq!(tick(), Duration::from_secs(10));
        drop(calm);
        watchdog.look(clock());
        assert_eq!(tick(), LONGEST_TICK);
    }
}
