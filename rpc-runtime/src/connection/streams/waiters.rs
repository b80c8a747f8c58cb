//! [`Waiters`]: tasks that wait until the channel is writable.

use std::collections::BTreeMap;
use std::task::Waker;

/// Tasks woken at a time. If there is still room, the driver's next turn wakes more.
const WOKEN: usize = 64;

/// Tasks that wait for room. They are woken in order of arrival, and a few at a time, since the
/// first may use all the room.
#[derive(Default)]
pub(in crate::connection) struct Waiters {
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

/// A task's place in the queue. The task may have been woken since.
#[derive(Debug, Default)]
pub(in crate::connection) struct Waiting(Option<u64>);

impl Waiters {
    pub(in crate::connection) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Queues `waker`. A task that already waits keeps its place.
    pub(in crate::connection) fn register(&mut self, place: &mut Waiting, waker: &Waker) {
        if let Some(known) = place.0.and_then(|number| self.waiting.get_mut(&number)) {
            known.clone_from(waker);
            return;
        }
        self.waiting.insert(self.next, waker.clone());
        place.0 = Some(self.next);
        self.next += 1;
    }

    /// Removes the task.
    pub(in crate::connection) fn remove(&mut self, place: &mut Waiting) {
        if let Some(number) = place.0.take() {
            self.waiting.remove(&number);
        }
    }

    /// Removes and returns the next few.
    pub(in crate::connection) fn next_few(&mut self, wakers: &mut Vec<Waker>) {
        let few = (0..WOKEN).map_while(|_| self.waiting.pop_first());
        wakers.extend(few.map(|(_, waker)| waker));
    }

    /// Removes and returns all.
    pub(in crate::connection) fn all(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(std::mem::take(&mut self.waiting).into_values());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;
    use std::time::{Duration, Instant};

    use super::*;

    /// A task, told from others by its address.
    struct Task(#[allow(dead_code, reason = "tasks of no size would share one")] u8);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    fn waiting(tasks: usize) -> (Waiters, Vec<(Waiting, Waker)>) {
        let mut waiters = Waiters::default();
        let mut places = Vec::new();
        for _ in 0..tasks {
            let (mut place, waker) = (Waiting::default(), Arc::new(Task(0)).into());
            waiters.register(&mut place, &waker);
            places.push((place, waker));
        }
        (waiters, places)
    }

    #[test]
    fn who_waits_longest_is_woken_first_and_who_asks_again_keeps_its_place() {
        let (mut waiters, mut places) = waiting(3 * WOKEN);
        let (place, waker) = &mut places[0];
        waiters.register(place, waker);
        waiters.remove(&mut places[1].0);
        let mut woken = Vec::new();
        waiters.next_few(&mut woken);
        assert_eq!(woken.len(), WOKEN);
        assert!(woken[0].will_wake(&places[0].1) && woken[1].will_wake(&places[2].1));
        // Who was woken and finds no room stands behind the others.
        let (place, waker) = &mut places[0];
        waiters.register(place, waker);
        woken.clear();
        waiters.all(&mut woken);
        assert_eq!(woken.len(), 2 * WOKEN);
        assert!(woken[2 * WOKEN - 1].will_wake(&places[0].1));
        assert!(waiters.is_empty());
    }

    /// How long it takes `tasks` tasks to begin to wait, each twice.
    fn cost(tasks: usize) -> Duration {
        let once = || {
            let (mut waiters, mut places) = waiting(tasks);
            let started = Instant::now();
            for (place, waker) in &mut places {
                waiters.register(place, waker);
                *place = Waiting::default();
                waiters.register(place, waker);
            }
            started.elapsed()
        };
        (0..20).map(|_| once()).min().unwrap()
    }

    #[test]
    fn to_wait_costs_no_more_where_many_wait() {
        let (few, many) = (cost(1_000), cost(4_000));
        // A scan for each makes it sixteen times as much.
        assert!(many < few * 8, "{few:?} for 1,000 and {many:?} for 4,000");
    }
}
