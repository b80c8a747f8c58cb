//! The watchdog: a thread that gives signs of life for connections whose tasks do not run.
//!
//! Heartbeats are answered by a connection's driver, a task. If methods hold all the threads of its
//! runtime, or the one that polls it, it does not run, and the peer would take a busy process for
//! a dead one. (Kafka's brokers lost their sessions like that.) So one thread of the process looks
//! from time to time for drivers that are overdue, and writes a pong for them that nobody asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::clock::clock;
use super::watch_interval::{INTERVAL, WatchInterval};

/// A driver that has not run for this long after its wake-up is delayed.
const OVERDUE: Duration = Duration::from_millis(250);

static WATCHDOG: Watchdog<'static> = Watchdog::new(&INTERVAL);

struct Watchdog<'i> {
    watched: Mutex<Vec<Weak<Channel>>>,
    interval: &'i WatchInterval,
}

/// Sends signs of life for the channel while its driver is delayed, until the channel is dropped.
pub(super) fn watch(channel: &Arc<Channel>) {
    #[cfg(test)]
    if super::sync::EXPLORING.get() {
        // A thread that the exploration knows nothing of.
        return;
    }
    WATCHDOG.watch(channel);
    INTERVAL.start(|| {
        let thread = thread::Builder::new().name("rpc-watchdog".into()).spawn(run);
        thread
            .inspect_err(|error| {
                tracing::warn!(%error, "no watchdog for heartbeats could be started");
            })
            .map(|thread| thread.thread().clone())
            .ok()
    });
    if let Some(interval) = channel.told_interval() {
        INTERVAL.expect(interval);
    }
}

fn run() {
    loop {
        thread::park_timeout(INTERVAL.get());
        WATCHDOG.look(clock());
    }
}

impl<'i> Watchdog<'i> {
    const fn new(interval: &'i WatchInterval) -> Self {
        Self { watched: Mutex::new(Vec::new()), interval }
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

    /// Checks all channels. The next check is due by the intervals of those that are still open, so
    /// a closed connection does not keep this thread busy.
    fn look(&self, now: Instant) {
        let before = self.interval.reset();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|channel| channel.strong_count() > 0);
        let channels: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        drop(watched);
        for channel in channels {
            // A user's handler or waker that panics, or what is dropped with the last of a channel, is
            // to end this thread no more than it ends a worker.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                match channel.expected_interval() {
                    Ok(interval) => interval.into_iter().for_each(|it| self.interval.expect(it)),
                    Err(Locked) => self.interval.keep(before),
                }
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
        let told = self.settings().heartbeat.hello_ms();
        (told > 0).then(|| Duration::from_millis(told.into()))
    }

    /// The shortest interval in which an end of the open channel relies on a sign of life.
    fn expected_interval(&self) -> Result<Option<Duration>, Locked> {
        self.try_update(|state, _| {
            let open = state.closed().is_none();
            let both = self.told_interval().into_iter().chain(state.peer_heartbeat_interval());
            both.min().filter(|_| open)
        })
        .ok_or(Locked)
    }

    /// Writes an unsolicited pong if the driver is overdue.
    fn give_sign_of_life(&self, now: Instant) {
        let Some(due_before) = now.checked_sub(OVERDUE) else { return };
        // Whoever holds the lock is at work on the channel.
        let written =
            self.try_update(|state, effects| state.write_sign_of_life(due_before, now, effects));
        if written == Some(true) {
            tracing::debug!(peer = %self.peer(), "the connection's task is held up; a sign of life was sent for it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::watch_interval::LONGEST;
    use super::*;
    use crate::connection::ChannelSettings;
    use crate::error::RpcError;
    use crate::handlers::Heartbeat;
    use crate::protocol::Hello;
    use crate::transport::raw::pair;

    #[tokio::test]
    async fn the_watchdog_is_as_busy_as_open_connections_want_it_and_no_longer() {
        let interval = WatchInterval::new();
        let watchdog = Watchdog::new(&interval);
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
        let hello = Hello { heartbeat_ms: 1, ..Hello::default() };
        busy.0.update(|state, effects| state.greet(hello, effects));
        interval.expect(Duration::from_secs(1));
        for _ in 0..2 {
            watchdog.look(clock());
            assert_eq!(interval.get(), Duration::from_millis(250));
        }
        busy.0.close(RpcError::unavailable("the test is over"));
        watchdog.look(clock());
        assert_eq!(interval.get(), Duration::from_secs(10));
        drop(calm);
        watchdog.look(clock());
        assert_eq!(interval.get(), LONGEST);
    }
}
