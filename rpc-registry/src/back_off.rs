//! [`BackOff`]: the pauses between attempts.

use std::time::Duration;

use crate::random::jittered;

/// Exponential back-off with jitter, for attempts at something that is not available.
///
/// The pause doubles with each attempt, up to a maximum. Each pause is shortened at random by up to
/// a half, so that processes that lost the same server do not return to it at the same moment.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    attempts: u32,
    last: Duration,
}

impl BackOff {
    /// The first pause and the maximum, both before jitter.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0, last: Duration::ZERO }
    }

    /// The pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.attempts = self.attempts.saturating_add(1).min(u32::BITS);
        self.last = jittered(self.first.saturating_mul(factor).min(self.longest));
        self.last
    }

    /// Notes how long the result of the last attempt lasted. The next pause is the first again
    /// if that is longer than the last pause. Otherwise the attempt counts as a failure, so that a
    /// server that accepts everything and keeps nothing is asked ever more rarely.
    pub fn lasted(&mut self, time: Duration) {
        if time > self.last {
            *self = Self::new(self.first, self.longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

    #[test]
    fn pauses_grow_to_the_maximum_and_are_never_nothing() {
        let mut back_off = BackOff::new(FIRST, LONGEST);
        let pauses: Vec<_> = (0..100).map(|_| back_off.next_pause()).collect();
        assert!(pauses.iter().all(|pause| *pause >= FIRST / 2 && *pause <= LONGEST));
        assert!(pauses[99] >= LONGEST / 2 && pauses[0] <= FIRST);
    }

    #[test]
    fn only_what_lasts_longer_than_the_pause_before_it_makes_the_next_one_short() {
        let mut back_off = BackOff::new(FIRST, LONGEST);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            back_off.lasted(last);
            last = back_off.next_pause();
        }
        assert!(last >= LONGEST / 2);
        back_off.lasted(LONGEST + FIRST);
        assert!(back_off.next_pause() <= FIRST);
    }
}
