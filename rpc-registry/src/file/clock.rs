//! Whether the system's clock can be used to tell how old a beat is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A forward step that is larger than this, and than what an adjusted clock gains, is a jump.
const STEP: Duration = Duration::from_secs(1);
/// An adjusted clock may gain one part in this many; Linux adjusts by 500 ppm at most.
const GAIN: u32 = 1000;

/// What was seen of the clock so far.
///
/// When the clock is set forward, or the machine was suspended, all beats look old until they are
/// renewed. So for the length of a lease time after that, nobody is taken for hung. A clock that is
/// set back makes beats look new, which does no harm but to hide for as long who has hung.
#[derive(Debug)]
struct Clock {
    last: Option<(Instant, SystemTime)>,
    jumped: Option<Instant>,
}

static CLOCK: Mutex<Clock> = Mutex::new(Clock { last: None, jumped: None });

/// The time of a look at beats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    now: SystemTime,
    since_jump: Option<Duration>,
}

impl Moment {
    pub(super) fn now() -> Self {
        let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        clock.at(Instant::now(), SystemTime::now())
    }

    /// For how long a beat of this time still counts; nothing if it doesn't any more.
    pub(super) fn left(&self, beat: SystemTime, ttl: Duration) -> Duration {
        let age = self.now.duration_since(beat).unwrap_or_default();
        let trusted = self.since_jump.map_or(Duration::ZERO, |since| ttl.saturating_sub(since));
        ttl.saturating_sub(age).max(trusted)
    }
}

impl Clock {
    fn at(&mut self, instant: Instant, now: SystemTime) -> Moment {
        if let Some((then, time)) = self.last {
            let passed = instant.saturating_duration_since(then);
            let shown = now.duration_since(time).unwrap_or_default();
            if shown.saturating_sub(passed) > STEP + passed / GAIN {
                self.jumped = Some(instant);
            }
        }
        self.last = Some((instant, now));
        let since_jump = self.jumped.map(|jumped| instant.saturating_duration_since(jumped));
        Moment { now, since_jump }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_beat_counts_for_its_lease_time_and_one_from_the_future_too() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        let moment = Clock { last: None, jumped: None }.at(instant, now);
        assert_eq!(moment.left(now - SECOND, TTL), 9 * SECOND);
        assert_eq!(moment.left(now - TTL, TTL), Duration::ZERO);
        assert_eq!(moment.left(now + 99 * SECOND, TTL), TTL);
    }

    #[test]
    fn after_a_jump_of_the_clock_nobody_is_taken_for_hung_for_a_lease_time() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        let mut clock = Clock { last: None, jumped: None };
        clock.at(instant, now);
        let later = now + 3600 * SECOND;
        assert_eq!(clock.at(instant + SECOND, later).left(now, TTL), TTL);
        assert_eq!(clock.at(instant + 5 * SECOND, later + 4 * SECOND).left(now, TTL), 6 * SECOND);
        let last = clock.at(instant + 11 * SECOND, later + 10 * SECOND);
        assert_eq!(last.left(now, TTL), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_runs_fast_or_is_set_back_has_not_jumped() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        for shown in [Duration::from_millis(86_443_200), Duration::from_millis(86_356_800)] {
            let mut clock = Clock { last: None, jumped: None };
            clock.at(instant, now);
            let moment = clock.at(instant + 86_400 * SECOND, now + shown);
            assert_eq!(moment.since_jump, None);
        }
        let mut clock = Clock { last: None, jumped: None };
        clock.at(instant, now);
        assert_eq!(clock.at(instant + SECOND, now - 3600 * SECOND).since_jump, None);
    }
}
