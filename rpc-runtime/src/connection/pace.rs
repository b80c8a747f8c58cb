//! [`Pace`]: checks that a peer sends or reads at a minimum rate.

use std::time::{Duration, Instant};

/// An end that looks so much later than it was to look was held up.
pub(super) const LATE: Duration = Duration::from_millis(50);
/// Additional time for a peer that seems too slow.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Minimum bytes in a window; with a rate of 0, any byte is enough.
pub(super) fn least(bytes_per_second: u32, window: Duration) -> usize {
    let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    let least = u64::from(bytes_per_second).saturating_mul(millis) / 1_000;
    usize::try_from(least).unwrap_or(usize::MAX).max(1)
}

/// Counts transferred bytes window by window. A peer that is too slow in a window is checked once
/// more, since this process may have been stopped or its thread blocked.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Start of the window, while bytes are due.
    since: Option<Instant>,
    /// Bytes transferred in this window.
    bytes: usize,
    /// Time of the final check.
    last_look: Option<Instant>,
    /// The end of the window was checked late, so it counts against the peer only if no byte came.
    late: bool,
}

impl Pace {
    /// Bytes are due from now on, if none were.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.since.is_none() {
            *self = Self { since: Some(now), ..Self::default() };
        }
    }

    /// No bytes are due.
    #[inline]
    pub(super) fn end(&mut self) {
        self.since = None;
    }

    /// Adds transferred bytes; `least` are enough for a window.
    pub(super) fn add(&mut self, bytes: usize, least: usize, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.since.is_some() && (self.bytes >= least || (self.late && bytes > 0)) {
            *self = Self { since: Some(now), ..Self::default() };
        }
    }

    /// Time of the next check.
    pub(super) fn due(&self, window: Duration) -> Option<Instant> {
        let end = self.since?.checked_add(window)?;
        Some(self.last_look.unwrap_or(end))
    }

    /// Whether the peer is too slow. Must be called after an attempt to read or to write.
    #[inline]
    pub(super) fn is_slow(&mut self, window: Duration, now: Instant) -> bool {
        self.since.is_some() && self.was_slow(window, now)
    }

    fn was_slow(&mut self, window: Duration, now: Instant) -> bool {
        let Some(due) = self.due(window).filter(|due| *due <= now) else { return false };
        if self.last_look.is_some() {
            return true;
        }
        self.late = now.saturating_duration_since(due) > LATE;
        if self.late && self.bytes > 0 {
            *self = Self { since: Some(now), ..Self::default() };
        } else {
            self.last_look = now.checked_add(LAST_LOOK);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(10);
    const LEAST: usize = 100;

    /// Whether the pace is too slow when this end looks then, and once more.
    fn slow_at(pace: &mut Pace, now: Instant) -> bool {
        assert!(!pace.is_slow(WINDOW, now), "there is always another look");
        pace.is_slow(WINDOW, now + LAST_LOOK)
    }

    #[test]
    fn what_is_least_follows_the_window() {
        assert_eq!(least(4_096, SECOND * 15), 61_440);
        assert_eq!(least(4_096, SECOND / 4), 1_024);
        assert_eq!(least(0, SECOND), 1);
        assert_eq!(least(u32::MAX, Duration::MAX), usize::MAX / 1_000);
    }

    #[test]
    fn any_byte_is_not_enough() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.begin(start);
        for second in 1..10 {
            pace.add(1, LEAST, start + SECOND * second);
        }
        assert_eq!(pace.due(WINDOW), Some(start + SECOND * 10));
        assert!(slow_at(&mut pace, start + SECOND * 10));
        // Not even at the last moment.
        let mut pace = Pace::default();
        pace.begin(start);
        assert!(!pace.is_slow(WINDOW, start + SECOND * 10));
        pace.add(1, LEAST, start + SECOND * 10);
        assert!(pace.is_slow(WINDOW, start + SECOND * 10 + LAST_LOOK));
    }

    #[test]
    fn enough_in_each_window_is_enough_and_the_rest_may_take_its_time() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.begin(start);
        for second in 1..100 {
            let now = start + SECOND * second;
            pace.add(11, LEAST, now);
            assert!(!pace.is_slow(WINDOW, now));
        }
        pace.end();
        assert!(!slow_at(&mut pace, start + SECOND * 1_000));
    }

    #[test]
    fn an_end_that_was_held_up_does_not_take_its_own_delay_for_the_peers() {
        let start = Instant::now();
        let late = start + SECOND * 40;
        let mut pace = Pace::default();
        pace.begin(start);
        assert!(!pace.is_slow(WINDOW, late));
        pace.add(5, LEAST, late);
        assert!(!pace.is_slow(WINDOW, late + LAST_LOOK), "a window of its own");
        assert_eq!(pace.due(WINDOW), Some(late + SECOND * 10));

        let mut pace = Pace::default();
        pace.begin(start);
        pace.add(5, LEAST, start + SECOND);
        assert!(!pace.is_slow(WINDOW, late));
        assert_eq!(pace.due(WINDOW), Some(late + SECOND * 10));

        let mut pace = Pace::default();
        pace.begin(start);
        assert!(slow_at(&mut pace, late), "nothing came all the same");
    }
}
