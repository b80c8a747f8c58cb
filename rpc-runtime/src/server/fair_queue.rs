//! [`FairQueue`]: jobs of many connections that wait for a few places.

use std::collections::{BTreeMap, HashMap};

/// Whether a connection that holds `own` of a resource may take one more while `free` are left.
///
/// The rule of dynamic thresholds (Choudhury and Hahne, 1998): one connection alone gets at most
/// half, two get a third each, and so on. So something is free for a connection that holds nothing,
/// and no table of connections has to be searched.
pub(super) const fn may_have_more(own: usize, free: usize) -> bool {
    own < free
}

/// Jobs that wait for places. Connections take turns, and each holds at most its share of the
/// places; see [`may_have_more`].
///
/// Each operation takes logarithmic time in the number of waiting jobs, plus the number of
/// connections that hold their share, which is at most the number of places. No I/O, no clock.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    places: usize,
    taken: usize,
    waiting: usize,
    lanes: HashMap<u64, Lane<J>>,
    /// Connections with waiting jobs, in the order of their turns.
    turns: BTreeMap<u64, u64>,
    next_turn: u64,
    next_job: u64,
}

/// The jobs of one connection. Connections without jobs have no lane.
#[derive(Debug)]
struct Lane<J> {
    waiting: BTreeMap<u64, J>,
    running: usize,
    /// Its key in `turns`, while it has waiting jobs.
    turn: u64,
}

impl<J> FairQueue<J> {
    pub(super) fn new(places: usize) -> Self {
        Self {
            places: places.max(1),
            taken: 0,
            waiting: 0,
            lanes: HashMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
            next_job: 0,
        }
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Appends a job. Returns its number.
    pub(super) fn push(&mut self, connection: u64, job: J) -> u64 {
        let number = self.next_job;
        self.next_job += 1;
        let lane = self.lanes.entry(connection).or_insert_with(|| Lane {
            waiting: BTreeMap::new(),
            running: 0,
            turn: 0,
        });
        if lane.waiting.is_empty() {
            lane.turn = self.next_turn;
            self.turns.insert(self.next_turn, connection);
            self.next_turn += 1;
        }
        lane.waiting.insert(number, job);
        self.waiting += 1;
        number
    }

    /// Removes a job that still waits.
    pub(super) fn remove(&mut self, connection: u64, number: u64) -> Option<J> {
        let lane = self.lanes.get_mut(&connection)?;
        let job = lane.waiting.remove(&number)?;
        self.waiting -= 1;
        if lane.waiting.is_empty() {
            self.turns.remove(&lane.turn);
            if lane.running == 0 {
                self.lanes.remove(&connection);
            }
        }
        Some(job)
    }

    /// The connection whose turn it is.
    fn next_connection(&self) -> Option<u64> {
        let free = self.places.saturating_sub(self.taken);
        if free == 0 {
            return None;
        }
        let may = |connection: &&u64| {
            self.lanes.get(connection).is_some_and(|lane| may_have_more(lane.running, free))
        };
        self.turns.values().find(may).copied()
    }

    /// Whether [`pop`](Self::pop) has a job.
    pub(super) fn has_next(&self) -> bool {
        self.next_connection().is_some()
    }

    /// Takes the next job and a place for it. Returns the connection for [`finish`](Self::finish).
    pub(super) fn pop(&mut self) -> Option<(u64, J)> {
        let connection = self.next_connection()?;
        let lane = self.lanes.get_mut(&connection)?;
        let (_, job) = lane.waiting.pop_first()?;
        lane.running += 1;
        self.waiting -= 1;
        self.taken += 1;
        self.turns.remove(&lane.turn);
        if !lane.waiting.is_empty() {
            lane.turn = self.next_turn;
            self.turns.insert(self.next_turn, connection);
            self.next_turn += 1;
        }
        Some((connection, job))
    }

    /// Frees the place of a job of this connection.
    pub(super) fn finish(&mut self, connection: u64) {
        self.taken = self.taken.saturating_sub(1);
        let Some(lane) = self.lanes.get_mut(&connection) else { return };
        lane.running = lane.running.saturating_sub(1);
        if lane.running == 0 && lane.waiting.is_empty() {
            self.lanes.remove(&connection);
        }
    }

    /// Removes all waiting jobs.
    pub(super) fn drain(&mut self) -> Vec<J> {
        self.waiting = 0;
        self.turns.clear();
        let mut jobs = Vec::new();
        for lane in self.lanes.values_mut() {
            jobs.extend(std::mem::take(&mut lane.waiting).into_values());
        }
        self.lanes.retain(|_, lane| lane.running > 0);
        jobs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn popped(queue: &mut FairQueue<u32>) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_connection_alone_gets_half_of_the_places_and_a_newcomer_one_at_once() {
        let mut queue = FairQueue::new(16);
        for job in 0..1_000 {
            queue.push(1, job);
        }
        assert_eq!(popped(&mut queue).len(), 8);
        queue.push(2, 0);
        assert_eq!(popped(&mut queue), [(2, 0)]);
    }

    #[test]
    fn a_single_place_is_for_each_connection_in_turn() {
        let mut queue = FairQueue::new(1);
        for job in 0..3 {
            queue.push(1, job);
        }
        queue.push(2, 10);
        let mut order = Vec::new();
        while let Some((connection, job)) = queue.pop() {
            order.push(job);
            assert_eq!(queue.pop(), None);
            queue.finish(connection);
        }
        assert_eq!(order, [0, 10, 1, 2]);
    }

    #[test]
    fn what_is_taken_back_leaves_nothing_behind() {
        let mut queue = FairQueue::new(1);
        queue.push(0, 0);
        assert!(queue.pop().is_some());
        for connection in 1..100 {
            let job = queue.push(connection, 7);
            assert_eq!(queue.remove(connection, job), Some(7));
            assert_eq!(queue.remove(connection, job), None);
        }
        assert_eq!((queue.waiting(), queue.lanes.len(), queue.turns.len()), (0, 1, 0));
        queue.finish(0);
        assert_eq!((queue.taken(), queue.lanes.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn no_job_is_lost_or_run_twice_and_no_place_is_free_while_a_connection_without_one_waits(
            places in 1_usize..9,
            steps in prop::collection::vec((0_u8..4, 0_u64..5), 1..200),
        ) {
            let mut queue = FairQueue::new(places);
            let (mut waiting, mut running) = (Vec::new(), Vec::new());
            let mut gone = HashSet::new();
            for (job, (step, connection)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => waiting.push((connection, queue.push(connection, job), job)),
                    2 => {
                        if let Some((connection, job)) = queue.pop() {
                            let at = waiting.iter().position(|known| known.2 == job).unwrap();
                            prop_assert_eq!(waiting.remove(at).0, connection);
                            prop_assert!(gone.insert(job));
                            running.push(connection);
                        } else {
                            let idle = |known: &(u64, u64, usize)| !running.contains(&known.0);
                            prop_assert!(running.len() == places || !waiting.iter().any(idle));
                        }
                    }
                    _ if connection % 2 == 0 => {
                        if let Some(connection) = running.pop() {
                            queue.finish(connection);
                        }
                    }
                    _ => {
                        if let Some((connection, number, job)) = waiting.pop() {
                            prop_assert_eq!(queue.remove(connection, number), Some(job));
                        }
                    }
                }
                prop_assert_eq!(queue.waiting(), waiting.len());
                prop_assert_eq!(queue.taken(), running.len());
                prop_assert!(queue.taken() <= places);
            }
        }
    }
}
