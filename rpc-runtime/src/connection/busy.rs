//! How many connections of this process are busy: whether an early write gives an idle core
//! something to do, or takes time from a busy one.

use std::num::NonZero;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A connection that had work within this time counts.
const WINDOW: Duration = Duration::from_millis(8);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static CORES: LazyLock<u64> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get) as u64);
static COUNTS: Counts = Counts(AtomicU64::new(0));

/// Counts the cores now. On a thread that is pinned there would be only one.
pub(crate) fn count_cores() {
    LazyLock::force(&CORES);
}

/// One connection's part in the count.
#[derive(Default)]
pub(super) struct Busy {
    /// The last one it was counted in.
    window: u32,
}

impl Busy {
    /// Notes that the connection has work. Says whether there are cores that no connection keeps
    /// busy, as far as this process knows.
    pub(super) fn leaves_cores_idle(&mut self, now: Instant) -> bool {
        let windows = now.saturating_duration_since(*START).as_nanos() / WINDOW.as_nanos();
        // A window 0 would look as if it had been counted.
        let window = (windows as u32).max(1);
        if window != self.window {
            self.window = window;
            COUNTS.enter(window);
        }
        COUNTS.busy() < *CORES
    }
}

/// The number of a window, 32 bits; how many were busy in it so far and in the one before, 16 bits
/// each.
struct Counts(AtomicU64);

impl Counts {
    fn enter(&self, window: u32) {
        // Never refused: the closure always gives a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counts| {
            let (known, current, before) = parts(counts);
            let (window, current, before) = match window.wrapping_sub(known) {
                0 => (known, current.saturating_add(1), before),
                1 => (window, 1, current),
                // From a thread that was held up.
                u32::MAX => (known, current, before.saturating_add(1)),
                _ => (window, 1, 0),
            };
            Some(u64::from(window) << 32 | u64::from(current) << 16 | u64::from(before))
        });
    }

    /// The larger of the two counts: the newer window may have just begun.
    fn busy(&self) -> u64 {
        let (_, current, before) = parts(self.0.load(Ordering::Relaxed));
        current.max(before).into()
    }
}

fn parts(counts: u64) -> (u32, u16, u16) {
    ((counts >> 32) as u32, (counts >> 16) as u16, counts as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_count_in_their_window_and_the_next_and_no_longer() {
        let counts = Counts(AtomicU64::new(0));
        for (window, expected) in
            [(7, 1), (7, 2), (7, 3), (8, 3), (8, 3), (7, 4), (9, 2), (20, 1), (21, 1)]
        {
            counts.enter(window);
            assert_eq!(counts.busy(), expected, "in window {window}");
        }
    }
}
