//! [`BackOff`]: pauses between attempts at a registry that is away.

use std::time::Duration;

use crate::instance::random_bits;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// From 0.1 s, doubling to 10 s, each shortened at random by up to a half, so that those who lost
/// a registry at the same moment don't come back to it at the same moment.
#[derive(Default)]
pub(super) struct BackOff {
    attempts: u32,
    last: Duration,
}

impl BackOff {
    pub(super) fn next(&mut self) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.attempts.min(7)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        let share = u32::try_from(random_bits() % 512).unwrap_or_default();
        self.last = doubled * (512 + share) / 1024;
        self.last
    }

    /// What came of the last attempt has lasted for so long. No longer than the pause before it: then
    /// it counts as a failed one, so that a registry that takes everything and keeps nothing is
    /// asked ever more rarely.
    pub(super) fn lasted(&mut self, time: Duration) {
        if time > self.last {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_seconds_and_are_never_nothing() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..100).map(|_| back_off.next()).collect();
        assert!(pauses.iter().all(|pause| *pause >= FIRST / 2 && *pause <= LONGEST));
        assert!(pauses[99] >= LONGEST / 2 && pauses[0] <= FIRST);
    }

    #[test]
    fn only_what_lasts_longer_than_the_pause_before_it_makes_the_next_one_short() {
        let mut back_off = BackOff::default();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            back_off.lasted(last);
            last = back_off.next();
        }
        assert!(last >= LONGEST / 2);
        back_off.lasted(LONGEST + FIRST);
        assert!(back_off.next() <= FIRST);
    }
}
