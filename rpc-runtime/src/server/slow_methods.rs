//! [`SlowMethods`]: methods that held the thread of a connection for too long.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::dispatcher::IdHasher;

/// Calls of a slow method that are spawned before it is tried in place again, the first time. The
/// operating system may just have preempted the thread.
const FIRST_SPAWNED: u32 = 16;
/// The same for a method that is slow again and again.
const MOST_SPAWNED: u32 = 1_000;
/// After this many fast calls in place, the method is forgotten.
const FORGIVEN_AFTER: u32 = 1_000;

/// Methods of one connection whose calls are spawned for a while, because a call held the thread.
///
/// Kept per connection: a call in place delays its own connection, while other connections are
/// delayed no more than by a task. So a client whose calls are slow changes nothing for others.
/// Most connections have no entry; at most there is one for each method of the server.
#[derive(Debug, Default)]
pub(super) struct SlowMethods(HashMap<u64, Slow, BuildHasherDefault<IdHasher>>);

#[derive(Debug)]
struct Slow {
    /// Remaining calls to be spawned.
    spawn_next: u32,
    /// Calls to be spawned the next time the method is slow.
    penalty: u32,
    /// Calls in place since the last slow one.
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

    /// Records that a call of the method held the thread. Returns whether that is new.
    pub(super) fn was_slow(&mut self, method: u64) -> bool {
        let new = Slow { spawn_next: 0, penalty: FIRST_SPAWNED, fast: 0 };
        let slow = self.0.entry(method).or_insert(new);
        slow.spawn_next = slow.penalty;
        let is_new = slow.penalty == FIRST_SPAWNED;
        slow.penalty = slow.penalty.saturating_mul(4).min(MOST_SPAWNED);
        slow.fast = 0;
        is_new
    }

    /// Frees memory while the connection is idle.
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
