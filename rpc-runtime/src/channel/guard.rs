//! The guard: a thread that gives signs of life for connections whose tasks do not run.
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

/// A driver that has not run for so long after it was to wake is held up.
const OVERDUE: Duration = Duration::from_millis(250);
/// How often the guard looks: four times in the shortest interval that a peer relies on, within
/// these bounds.
const SHORTEST_TICK: Duration = Duration::from_millis(100);
const LONGEST_TICK: Duration = Duration::from_secs(15);

static WATCHED: Mutex<Vec<Weak<Channel>>> = Mutex::new(Vec::new());
static THREAD: OnceLock<Option<thread::Thread>> = OnceLock::new();
/// In milliseconds.
static TICK: AtomicU64 = AtomicU64::new(LONGEST_TICK.as_millis() as u64);

/// Gives signs of life for the channel when its driver is held up, until it is dropped.
pub(super) fn watch(channel: &Arc<Channel>) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    // At least doubling what is left, so that looking for those that are gone costs each a constant.
    if watched.len() == watched.capacity() {
        watched.retain(|channel| channel.strong_count() > 0);
        let left = watched.len();
        watched.reserve(left);
    }
    watched.push(Arc::downgrade(channel));
    drop(watched);
    THREAD.get_or_init(|| {
        let guard = thread::Builder::new().name("rpc-guard".into()).spawn(run);
        guard
            .inspect_err(|error| tracing::warn!(%error, "no guard for heartbeats could be started"))
            .map(|guard| guard.thread().clone())
            .ok()
    });
}

/// A peer relies on a sign of life in each such interval.
pub(super) fn expect_interval(interval: Duration) {
    let tick = (interval / 4).clamp(SHORTEST_TICK, LONGEST_TICK);
    let tick = u64::try_from(tick.as_millis()).unwrap_or(u64::MAX);
    if TICK.fetch_min(tick, Ordering::Relaxed) > tick
        && let Some(Some(guard)) = THREAD.get()
    {
        guard.unpark();
    }
}

fn run() {
    loop {
        thread::park_timeout(Duration::from_millis(TICK.load(Ordering::Relaxed)));
        let now = clock();
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|channel| channel.strong_count() > 0);
        let channels: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        drop(watched);
        for channel in channels {
            // A user's handler or waker that panics, or what is dropped with the last of a channel, is
            // to end this thread no more than it ends a worker.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                channel.give_sign_of_life(now);
                drop(channel);
            }));
        }
    }
}

impl Channel {
    /// Writes a pong that nobody asked for, if the driver should have run long since.
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
