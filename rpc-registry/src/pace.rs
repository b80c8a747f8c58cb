//! How often long lists are taken over.

use std::time::Duration;

/// How many times as long as the work the rest after it is.
const REST: u32 = 4;
/// The longest rest.
const LONGEST: Duration = Duration::from_secs(1);

/// For how long to leave a list alone after it took so long to take over. What changes meanwhile is
/// taken over as one. Whoever can write to a registry can change a long list all the time, and taking
/// it over takes a time that grows with its length: it must not take a core of each consumer.
#[doc(hidden)]
pub fn rest_after(work: Duration) -> Duration {
    work.saturating_mul(REST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_a_fifth_of_the_time_and_what_is_new_is_never_a_second_late() {
        assert_eq!(rest_after(Duration::from_millis(10)), Duration::from_millis(40));
        assert_eq!(rest_after(Duration::MAX), LONGEST);
    }
}
