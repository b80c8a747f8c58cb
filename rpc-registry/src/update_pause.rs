//! [`rest_after`]: the pause between two applied lists.

use std::time::Duration;

/// The pause as a multiple of the work before it.
const FACTOR: u32 = 4;
/// Maximum pause.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause after a list was applied, which took the time `work`. Changes during the pause are
/// applied together. The work grows with the length of the list, and a client of the registry can
/// change a long list constantly. Without pauses that would use a whole core of each consumer.
#[doc(hidden)]
pub fn rest_after(work: Duration) -> Duration {
    work.saturating_mul(FACTOR).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_a_fifth_of_the_time_and_a_change_is_never_a_second_late() {
        assert_eq!(rest_after(Duration::from_millis(10)), Duration::from_millis(40));
        assert_eq!(rest_after(Duration::MAX), LONGEST);
    }
}
