//! [`SlowMethods`]: the methods that held the thread of a connection.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::dispatcher::IdHasher;

/// How many calls of a slow method are spawned before it is tried in place again: the first time,
/// for the operating system may just have taken the processor away,
const FIRST_SPAWNED: u32 = 16;
/// and if it is slow again and again.
const MOST_SPAWNED: u32 = 1_000;
/// After so many calls in place none of which was slow, the method is forgotten.
const FORGIVEN_AFTER: u32 = 1_000;

/// Which methods of a connection are not polled in place for a while, since a call of theirs held
/// the thread.
///
/// Of each connection by itself: what a call that is polled in place delays more than one in a task
/// is its own connection. So a client whose calls are slow changes nothing for others. There is an
/// entry for each slow method of the server at most, and none for most connections.
#[derive(Debug, Default)]
pub(super) struct SlowMethods(HashMap<u64, Slow, BuildHasherDefault<IdHasher>>);

#[derive(Debug)]
struct Slow {
    /// Calls still to be spawned.
    spawn_next: u32,
    /// How many it will be when it is slow again.
    penalty: u32,
    /// Calls in place since it was slow.
    fast: u32,
}

impl SlowMethods {
    /// Whether the next call of the method is to be spawned. Counts it.
    #[inline]
    pub(super) fn spawns_next(&mut self, method: u64) -> bool {
        !self.0.is_empty() && self.look(method)
    }

    fn look(&mut self, method: u64) -> bool {
        let Some(slow) = self.0.get_mut(&method) else { return false };
        if slow.spawn_next > 0 {
            slow.spawn_next -= 1;
            return true;
        }
        slow.fast += 1;
        if slow.fast > FORGIVEN_AFTER {
            self.0.remove(&method);
        }
        false
    }

    /// A call of the method held the thread. Says whether that is new.
    pub(super) fn was_slow(&mut self, method: u64) -> bool {
        let new = Slow { spawn_next: 0, penalty: FIRST_SPAWNED, fast: 0 };
        let slow = self.0.entry(method).or_insert(new);
        slow.spawn_next = slow.penalty;
        let is_new = slow.penalty == FIRST_SPAWNED;
        slow.penalty = slow.penalty.saturating_mul(4).min(MOST_SPAWNED);
        slow.fast = 0;
        is_new
    }

    /// The connection rests.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: u64 = 7;

    /// Calls that are spawned until the next one in place.
    fn spawned(slow: &mut SlowMethods) -> u32 {
        (0..).take_while(|_| slow.spawns_next(METHOD)).count() as u32
    }

    #[test]
    fn a_method_that_is_slow_once_is_soon_tried_again_and_one_that_always_is_seldom() {
        let mut methods = SlowMethods::default();
        assert_eq!(spawned(&mut methods), 0);
        let slow = |methods: &mut SlowMethods| {
            methods.was_slow(METHOD);
            spawned(methods)
        };
        let times = [(); 5].map(|()| slow(&mut methods));
        assert_eq!(times, [16, 64, 256, 1_000, 1_000]);
        // A few fast ones in between change nothing.
        (0..100).for_each(|_| assert!(!methods.spawns_next(METHOD)));
        assert_eq!(slow(&mut methods), 1_000);
        (0..=FORGIVEN_AFTER).for_each(|_| assert!(!methods.spawns_next(METHOD)));
        assert!(methods.0.is_empty());
        assert_eq!(slow(&mut methods), 16);
        assert!(!methods.spawns_next(METHOD + 1), "another method is not concerned");
    }
}
