//! Whether the system's clock can be used to determine the age of a process lease.

use std::time::{Duration, Instant, SystemTime};

use crate::sync::Mutex;

/// A forward step that is larger than this, and than what an adjusted clock gains, is a jump.
const STEP: Duration = Duration::from_secs(1);
/// An adjusted clock may gain one part in this many; Linux adjusts by 500 ppm at most.
const GAIN: u32 = 1000;

/// The history of the clock.
///
/// After the clock was set forward, or the machine was suspended, all process leases look old until
/// they are renewed. So no lease expires for a lease time after that. A clock that is set back
/// makes leases look new, which only delays the expiration.
#[derive(Debug)]
struct Clock {
    last: Option<(Instant, SystemTime)>,
    jumped: Option<Instant>,
}

static CLOCK: Mutex<Clock> = Mutex::new(Clock { last: None, jumped: None });

/// The time of a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    now: SystemTime,
    since_jump: Option<Duration>,
}

impl ClockReading {
    pub(super) fn now() -> Self {
        CLOCK.lock().read(Instant::now(), SystemTime::now())
    }

    /// The remaining time of a lease that was renewed at this time; zero if it has expired.
    pub(super) fn remaining(&self, renewed: SystemTime, lease_time: Duration) -> Duration {
        let age = self.now.duration_since(renewed).unwrap_or_default();
        let grace =
            self.since_jump.map_or(Duration::ZERO, |since| lease_time.saturating_sub(since));
        lease_time.saturating_sub(age).max(grace)
    }
}

impl Clock {
    fn read(&mut self, instant: Instant, now: SystemTime) -> ClockReading {
        if let Some((then, time)) = self.last {
            let passed = instant.saturating_duration_since(then);
            let shown = now.duration_since(time).unwrap_or_default();
            if shown.saturating_sub(passed) > STEP + passed / GAIN {
                self.jumped = Some(instant);
            }
        }
        self.last = Some((instant, now));
        let since_jump = self.jumped.map(|jumped| instant.saturating_duration_since(jumped));
        ClockReading { now, since_jump }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_TIME: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_lasts_for_its_lease_time_and_one_from_the_future_too() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        let reading = Clock { last: None, jumped: None }.read(instant, now);
        assert_eq!(reading.remaining(now - SECOND, LEASE_TIME), 9 * SECOND);
        assert_eq!(reading.remaining(now - LEASE_TIME, LEASE_TIME), Duration::ZERO);
        assert_eq!(reading.remaining(now + 99 * SECOND, LEASE_TIME), LEASE_TIME);
    }

    #[test]
    fn after_a_jump_of_the_clock_no_lease_expires_for_a_lease_time() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        let mut clock = Clock { last: None, jumped: None };
        clock.read(instant, now);
        let later = now + 3600 * SECOND;
        assert_eq!(clock.read(instant + SECOND, later).remaining(now, LEASE_TIME), LEASE_TIME);
        assert_eq!(
            clock.read(instant + 5 * SECOND, later + 4 * SECOND).remaining(now, LEASE_TIME),
            6 * SECOND
        );
        let last = clock.read(instant + 11 * SECOND, later + 10 * SECOND);
        assert_eq!(last.remaining(now, LEASE_TIME), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_runs_fast_or_is_set_back_has_not_jumped() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        for shown in [Duration::from_millis(86_443_200), Duration::from_millis(86_356_800)] {
            let mut clock = Clock { last: None, jumped: None };
            clock.read(instant, now);
            let reading = clock.read(instant + 86_400 * SECOND, now + shown);
            assert_eq!(reading.since_jump, None);
        }
        let mut clock = Clock { last: None, jumped: None };
        clock.read(instant, now);
        assert_eq!(clock.read(instant + SECOND, now - 3600 * SECOND).since_jump, None);
    }
}
