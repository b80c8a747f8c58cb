//! Random numbers for names and for jitter. Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::clock::unix_ms;

/// A random number, different in each process.
///
/// The standard library seeds the hashers of a process from the operating system, and no two
/// hashers of a process have the same keys. The process id and the time distinguish the copies of a
/// process image.
#[doc(hidden)]
pub fn random_u64() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u64(unix_ms());
    hasher.finish()
}

/// A random index below `len`. 0 if `len` is 0.
#[doc(hidden)]
pub fn random_index(len: usize) -> usize {
    usize::try_from(random_u64() >> 32).unwrap_or_default().checked_rem(len).unwrap_or_default()
}

/// A random duration from half of `longest` to `longest`.
pub(crate) fn jittered(longest: Duration) -> Duration {
    let share = u32::try_from(random_u64() % 512).unwrap_or_default();
    longest.saturating_mul(512 + share) / 1024
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_number_comes_twice() {
        let numbers: HashSet<_> = (0..10_000).map(|_| random_u64()).collect();
        assert_eq!(numbers.len(), 10_000);
    }

    #[test]
    fn an_index_is_in_range_and_every_one_occurs() {
        let found: HashSet<_> = (0..1_000).map(|_| random_index(3)).collect();
        assert_eq!(found, HashSet::from([0, 1, 2]));
        assert_eq!(random_index(0), 0);
    }

    #[test]
    fn jitter_takes_away_half_at_most() {
        let longest = Duration::from_millis(100);
        assert!((0..1_000).all(|_| (longest / 2..=longest).contains(&jittered(longest))));
    }
}
