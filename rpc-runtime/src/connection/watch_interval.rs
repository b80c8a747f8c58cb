//! [`WatchInterval`]: how often the watchdog looks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Bounds of the watchdog's interval: a quarter of the shortest heartbeat interval that an end of an
/// open connection relies on.
const SHORTEST: Duration = Duration::from_millis(100);
pub(super) const LONGEST: Duration = Duration::from_secs(15);

/// The interval of the process's watchdog.
pub(super) static INTERVAL: WatchInterval = WatchInterval::new();

/// An interval that connections shorten, and the thread that is told so.
pub(super) struct WatchInterval {
    millis: AtomicU64,
    /// `None` if it could not be started.
    thread: OnceLock<Option<thread::Thread>>,
}

impl WatchInterval {
    pub(super) const fn new() -> Self {
        Self { millis: AtomicU64::new(LONGEST.as_millis() as u64), thread: OnceLock::new() }
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Acquire))
    }

    /// An end of a connection relies on a sign of life in each such `heartbeat` interval: looks four
    /// times as often. Call it after the connection's state has changed; otherwise the watchdog may
    /// forget it again.
    pub(super) fn expect(&self, heartbeat: Duration) {
        let interval = (heartbeat / 4).clamp(SHORTEST, LONGEST);
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        if self.millis.fetch_min(millis, Ordering::AcqRel) > millis
            && let Some(Some(thread)) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Begins anew with the longest interval. Returns the one before.
    pub(super) fn reset(&self) -> Duration {
        Duration::from_millis(self.millis.swap(LONGEST.as_millis() as u64, Ordering::AcqRel))
    }

    /// Sets an interval back that was reset, unless a shorter one was set meanwhile.
    pub(super) fn keep(&self, before: Duration) {
        let millis = u64::try_from(before.as_millis()).unwrap_or(u64::MAX);
        self.millis.fetch_min(millis, Ordering::AcqRel);
    }

    /// Starts the thread that is told of shorter intervals, once.
    pub(super) fn start(&self, start: impl FnOnce() -> Option<thread::Thread>) {
        self.thread.get_or_init(start);
    }
}
