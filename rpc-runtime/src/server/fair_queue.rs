//! [`FairQueue`]: jobs of many connections that wait for a limited number of places.

use std::collections::BTreeMap;

use super::turns::{Turns, Waits};
use crate::budget::{Address, Owner};

/// How many times as many places as are free the connections of one address may hold together.
const ADDRESS: usize = 15;

/// How many places must be free before a connection that holds `connection` of them may take one
/// more. The connections of its address hold `address` together.
///
/// The rule of dynamic thresholds (Choudhury and Hahne, 1998). A connection holds at most as many
/// as are free: one alone gets at most half, two get a third each. An address holds at most 15
/// times as many as are free: one alone gets 15 of 16, two get 15 of 31 each. So something is free
/// for an address that holds nothing, unless there are more than a fifteenth as many greedy
/// addresses as places.
pub(super) const fn needed(connection: usize, address: usize) -> usize {
    let address = address / ADDRESS;
    let holds = if connection > address { connection } else { address };
    holds.saturating_add(1)
}

/// Jobs that wait for places. Addresses take turns, and so do the connections of each. The one that
/// [needs](needed) the fewest free places is first.
///
/// Each operation takes logarithmic time in the number of addresses, connections and jobs. No I/O,
/// no clock.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    places: usize,
    taken: usize,
    waiting: usize,
    next_job: u64,
    addresses: Turns<Address, AddressQueue<J>>,
}

/// The connections of one address.
#[derive(Debug)]
struct AddressQueue<J> {
    taken: usize,
    connections: Turns<u64, ConnectionQueue<J>>,
}

/// The jobs of one connection.
#[derive(Debug)]
struct ConnectionQueue<J> {
    taken: usize,
    waiting: BTreeMap<u64, J>,
}

impl<J> Default for AddressQueue<J> {
    fn default() -> Self {
        Self { taken: 0, connections: Turns::default() }
    }
}

impl<J> Default for ConnectionQueue<J> {
    fn default() -> Self {
        Self { taken: 0, waiting: BTreeMap::new() }
    }
}

impl<J> Waits for AddressQueue<J> {
    fn rank(&self) -> Option<usize> {
        self.connections.first().map(|(taken, _)| needed(taken, self.taken))
    }

    fn is_unused(&self) -> bool {
        self.taken == 0 && self.connections.is_empty()
    }
}

impl<J> Waits for ConnectionQueue<J> {
    fn rank(&self) -> Option<usize> {
        (!self.waiting.is_empty()).then_some(self.taken)
    }

    fn is_unused(&self) -> bool {
        self.taken == 0 && self.waiting.is_empty()
    }
}

impl<J> AddressQueue<J> {
    fn pop(&mut self) -> Option<(u64, J)> {
        let (_, connection) = self.connections.first()?;
        let (_, job) = self.connections.serve(connection, |lane| {
            let job = lane.waiting.pop_first()?;
            lane.taken += 1;
            Some(job)
        })?;
        self.taken += 1;
        Some((connection, job))
    }
}

impl<J> FairQueue<J> {
    pub(super) fn new(places: usize) -> Self {
        let addresses = Turns::default();
        Self { places: places.max(1), taken: 0, waiting: 0, next_job: 0, addresses }
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    fn lane<R>(&mut self, of: Owner, change: impl FnOnce(&mut ConnectionQueue<J>) -> R) -> R {
        self.addresses.change(of.address, |lanes| lanes.connections.change(of.connection, change))
    }

    /// Appends a job. Returns its number.
    pub(super) fn push(&mut self, owner: Owner, job: J) -> u64 {
        let number = self.next_job;
        self.next_job += 1;
        self.waiting += 1;
        self.lane(owner, |lane| lane.waiting.insert(number, job));
        number
    }

    /// Removes a job that still waits.
    pub(super) fn remove(&mut self, owner: Owner, number: u64) -> Option<J> {
        let job = self.lane(owner, |lane| lane.waiting.remove(&number))?;
        self.waiting -= 1;
        Some(job)
    }

    /// The address that is next, if there is a place for it.
    fn next_address(&self) -> Option<Address> {
        let free = self.places.saturating_sub(self.taken);
        let (needed, address) = self.addresses.first()?;
        (needed <= free).then_some(address)
    }

    /// Whether [`pop`](Self::pop) has a job.
    pub(super) fn has_next(&self) -> bool {
        self.next_address().is_some()
    }

    /// Takes the next job and a place for it. Returns the owner for [`finish`](Self::finish).
    pub(super) fn pop(&mut self) -> Option<(Owner, J)> {
        let address = self.next_address()?;
        let (connection, job) = self.addresses.serve(address, AddressQueue::pop)?;
        self.waiting -= 1;
        self.taken += 1;
        Some((Owner { connection, address }, job))
    }

    /// Frees the place of a job of this owner.
    pub(super) fn finish(&mut self, owner: Owner) {
        let Owner { connection, address } = owner;
        self.taken = self.taken.saturating_sub(1);
        self.addresses.change(address, |lanes| {
            lanes.taken = lanes.taken.saturating_sub(1);
            lanes.connections.change(connection, |lane| lane.taken = lane.taken.saturating_sub(1));
        });
    }

    /// Removes all waiting jobs.
    pub(super) fn drain(&mut self) -> Vec<J> {
        self.waiting = 0;
        let mut jobs = Vec::new();
        for address in self.addresses.keys() {
            self.addresses.change(address, |AddressQueue { connections, .. }| {
                for connection in connections.keys() {
                    let waiting = |lane: &mut ConnectionQueue<J>| std::mem::take(&mut lane.waiting);
                    jobs.extend(connections.change(connection, waiting).into_values());
                }
            });
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn owner(address: u8, connection: u64) -> Owner {
        Owner { connection, address: Address::Ip(Ipv4Addr::new(10, 0, 0, address).into()) }
    }

    fn popped(queue: &mut FairQueue<u32>) -> Vec<(Owner, u32)> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_connection_alone_gets_half_of_the_places_and_a_newcomer_one_at_once() {
        let mut queue = FairQueue::new(16);
        for job in 0..1_000 {
            queue.push(owner(1, 1), job);
        }
        assert_eq!(popped(&mut queue).len(), 8);
        queue.push(owner(1, 2), 0);
        assert_eq!(popped(&mut queue), [(owner(1, 2), 0)]);
    }

    #[test]
    fn an_address_with_many_connections_leaves_places_for_another() {
        let mut queue = FairQueue::new(512);
        for connection in 0..600 {
            queue.push(owner(1, connection), 0);
        }
        assert_eq!(popped(&mut queue).len(), 480);
        for connection in 600..1_200 {
            queue.push(owner(2, connection), 0);
        }
        // 15 times what is free, until the first address gives some back.
        assert_eq!(popped(&mut queue).len(), 30);
        queue.push(owner(3, 1_200), 0);
        assert_eq!(popped(&mut queue), [(owner(3, 1_200), 0)]);
        let mut places = [480_usize, 30];
        for connection in 0..480 {
            queue.finish(owner(1, connection));
            places[0] -= 1;
            for (owner, _) in popped(&mut queue) {
                places[usize::from(owner.address == self::owner(2, 0).address)] += 1;
            }
        }
        // All of the first one's, and 15 times the 24 that are free.
        assert_eq!(places, [120, 367]);
    }

    #[test]
    fn a_single_place_is_for_each_address_and_each_of_its_connections_in_turn() {
        let mut queue = FairQueue::new(1);
        for job in 0..3 {
            queue.push(owner(1, 1), job);
        }
        queue.push(owner(1, 2), 10);
        queue.push(owner(2, 3), 20);
        queue.push(owner(2, 3), 21);
        let mut order = Vec::new();
        while let Some((owner, job)) = queue.pop() {
            order.push(job);
            assert_eq!(queue.pop(), None);
            queue.finish(owner);
        }
        assert_eq!(order, [0, 20, 10, 21, 1, 2]);
    }

    #[test]
    fn what_is_taken_back_leaves_nothing_behind() {
        let mut queue = FairQueue::new(1);
        queue.push(owner(0, 0), 0);
        assert!(queue.pop().is_some());
        for connection in 1..100 {
            let owner = owner(connection as u8 % 10, connection);
            let job = queue.push(owner, 7);
            assert_eq!(queue.remove(owner, job), Some(7));
            assert_eq!(queue.remove(owner, job), None);
        }
        assert_eq!((queue.waiting(), queue.addresses.keys().len()), (0, 1));
        queue.push(owner(1, 1), 8);
        assert_eq!(queue.drain(), [8]);
        queue.finish(owner(0, 0));
        assert_eq!((queue.taken(), queue.addresses.is_empty()), (0, true));
    }

    /// The same by searching lists.
    #[derive(Default)]
    struct Model {
        waiting: Vec<(Owner, u64)>,
        running: Vec<Owner>,
        /// Since when an address or a connection waits, or was served.
        turns: HashMap<(Address, Option<u64>), u64>,
        next_turn: u64,
    }

    impl Model {
        fn keys(owner: Owner) -> [(Address, Option<u64>); 2] {
            [(owner.address, None), (owner.address, Some(owner.connection))]
        }

        fn holds(&self, (address, connection): (Address, Option<u64>)) -> usize {
            let of = |owner: &&Owner| {
                owner.address == address && connection.is_none_or(|c| c == owner.connection)
            };
            self.running.iter().filter(of).count()
        }

        fn waits(&self, key: (Address, Option<u64>)) -> bool {
            self.waiting.iter().any(|(owner, _)| Self::keys(*owner).contains(&key))
        }

        fn push(&mut self, owner: Owner, number: u64) {
            for key in Self::keys(owner) {
                if !self.waits(key) {
                    self.next_turn += 1;
                    self.turns.insert(key, self.next_turn);
                }
            }
            self.waiting.push((owner, number));
        }

        fn pop(&mut self, places: usize) -> Option<(Owner, u64)> {
            let first_of = |address| {
                let of = self.waiting.iter().filter(|(owner, _)| owner.address == address);
                let by = |(owner, number): &&(Owner, u64)| {
                    let key = Self::keys(*owner)[1];
                    (self.holds(key), self.turns[&key], *number)
                };
                *of.min_by_key(by).unwrap()
            };
            let by = |(owner, number): &(Owner, u64)| {
                let [address, connection] = Self::keys(*owner);
                let needed = needed(self.holds(connection), self.holds(address));
                (needed, self.turns[&address], *number)
            };
            let firsts = self.waiting.iter().map(|(owner, _)| first_of(owner.address));
            let next = firsts.min_by_key(by)?;
            if by(&next).0 > places - self.running.len() {
                return None;
            }
            self.waiting.retain(|waiting| *waiting != next);
            self.running.push(next.0);
            for key in Self::keys(next.0) {
                self.next_turn += 1;
                self.turns.insert(key, self.next_turn);
            }
            Some(next)
        }
    }

    proptest! {
        #[test]
        fn jobs_run_once_and_in_the_order_of_the_model(
            places in 1_usize..40,
            steps in prop::collection::vec((0_u8..5, 0_u8..3, 0_u64..4), 1..300),
        ) {
            let (mut queue, mut model) = (FairQueue::new(places), Model::default());
            for (step, address, connection) in steps {
                // The connections of different addresses are different ones.
                let owner = owner(address, connection + 10 * u64::from(address));
                match step {
                    0 | 1 => {
                        let number = queue.push(owner, owner);
                        model.push(owner, number);
                    }
                    2 | 3 => {
                        let expected = model.pop(places);
                        let popped = queue.pop();
                        prop_assert_eq!(popped.map(|(owner, _)| owner), expected.map(|e| e.0));
                        if let Some((owner, job)) = popped {
                            prop_assert_eq!(owner, job);
                        }
                    }
                    _ if connection % 2 == 0 => {
                        if let Some(owner) = model.running.pop() {
                            queue.finish(owner);
                        }
                    }
                    _ => {
                        if let Some((owner, number)) = model.waiting.pop() {
                            prop_assert_eq!(queue.remove(owner, number), Some(owner));
                        }
                    }
                }
                prop_assert_eq!(queue.waiting(), model.waiting.len());
                prop_assert_eq!(queue.taken(), model.running.len());
                prop_assert!(queue.taken() <= places);
            }
            for owner in std::mem::take(&mut model.running) {
                queue.finish(owner);
            }
            prop_assert_eq!(queue.drain().len(), model.waiting.len());
            prop_assert!(queue.addresses.is_empty());
        }
    }
}
