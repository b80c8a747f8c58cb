//! [`Ledger`]: the bytes that connections hold, and the claims that wait.
//!
//! A state machine without I/O and without a clock. Held bytes count at three levels: the
//! connection, the address of its peer, and the total. A claim takes its bytes level by level, the
//! connection's first, and waits at the level that has no room. So a connection at its own limit
//! does not delay others, and a claim that waits at a higher level waits only for claims that have
//! everything they need.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::task::Waker;

use super::limits::{Level, Limits};
use crate::uri::host;

/// The key by which the connections of a peer are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Ip(IpAddr),
    /// Peers on this machine, which have no address.
    Local,
}

impl Address {
    /// Of a peer's URI.
    pub(crate) fn of(peer: &str) -> Self {
        host(peer).map_or(Self::Local, Self::Ip)
    }
}

/// A connection and its address: the owner of what is counted by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) connection: u64,
    pub(crate) address: Address,
}

#[derive(Debug, Default)]
struct Usage {
    used: usize,
    /// Claims waiting at this level, the oldest first.
    waiting: BTreeSet<u64>,
    /// Incremented by each claim that finds room at this level.
    granted: u64,
}

impl Usage {
    fn is_unused(&self) -> bool {
        self.used == 0 && self.waiting.is_empty()
    }

    /// Whether a claim has room. One larger than the limit has room when nothing else is held.
    fn fits(&self, bytes: usize, limit: usize) -> bool {
        self.used == 0 || self.used.saturating_add(bytes) <= limit
    }
}

#[derive(Debug)]
struct Connection {
    address: Address,
    usage: Usage,
}

#[derive(Debug)]
struct Claim {
    owner: Owner,
    bytes: usize,
    /// The level at which it waits; `None` once it is granted.
    waits_at: Option<Level>,
    waker: Option<Waker>,
}

/// The held bytes by owner, and the waiting claims.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    total: Usage,
    /// Connections that hold bytes or wait.
    addresses: HashMap<Address, Usage>,
    connections: HashMap<u64, Connection>,
    claims: HashMap<u64, Claim>,
    /// A lower number is an older claim.
    next_claim: u64,
}

impl Ledger {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: Usage::default(),
            addresses: HashMap::new(),
            connections: HashMap::new(),
            claims: HashMap::new(),
            next_claim: 0,
        }
    }

    /// All held bytes.
    pub(super) fn used(&self) -> usize {
        self.total.used
    }

    /// Whether the connection holds or claims anything.
    pub(super) fn contains(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    /// Adds `more` bytes, regardless of the limits, and returns `less` bytes.
    pub(super) fn adjust(
        &mut self,
        owner: Owner,
        more: usize,
        less: usize,
        wakers: &mut Vec<Waker>,
    ) {
        for level in Level::ALL {
            let usage = self.usage_mut(level, owner);
            usage.used = usage.used.saturating_add(more).saturating_sub(less);
        }
        if less > more {
            self.grant_waiting(owner, wakers);
        }
        self.remove_unused(owner);
    }

    /// Claims bytes. Returns the claim's number, and whether it is granted.
    pub(super) fn claim(&mut self, owner: Owner, bytes: usize) -> (u64, bool) {
        let id = self.next_claim;
        self.next_claim += 1;
        self.claims.insert(id, Claim { owner, bytes, waits_at: None, waker: None });
        // It has no waker yet.
        self.acquire(id, Level::Connection, &mut Vec::new());
        (id, self.is_granted(id))
    }

    fn is_granted(&self, id: u64) -> bool {
        self.claims.get(&id).is_none_or(|claim| claim.waits_at.is_none())
    }

    /// Whether the claim is granted. If not, `waker` is woken when it is.
    pub(super) fn poll(&mut self, id: u64, waker: &Waker) -> bool {
        let granted = self.is_granted(id);
        if !granted && let Some(claim) = self.claims.get_mut(&id) {
            match &mut claim.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        granted
    }

    /// Grants a waiting claim regardless of the limits.
    pub(super) fn force(&mut self, id: u64) {
        let Some(claim) = self.claims.get_mut(&id) else { return };
        let (owner, bytes) = (claim.owner, claim.bytes);
        let Some(from) = claim.waits_at.take() else { return };
        self.usage_mut(from, owner).waiting.remove(&id);
        for level in Level::ALL.into_iter().filter(|level| *level >= from) {
            let usage = self.usage_mut(level, owner);
            usage.used = usage.used.saturating_add(bytes);
        }
    }

    /// Returns the bytes of a claim.
    pub(super) fn release(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        let Some(Claim { owner, bytes, waits_at, .. }) = self.claims.remove(&id) else { return };
        for level in Level::ALL {
            let usage = self.usage_mut(level, owner);
            match waits_at {
                Some(at) if level == at => drop(usage.waiting.remove(&id)),
                Some(at) if level > at => {}
                _ => usage.used = usage.used.saturating_sub(bytes),
            }
        }
        self.grant_waiting(owner, wakers);
        self.remove_unused(owner);
    }

    /// Whether a new claim would have to wait: a level is at its limit, or others wait there.
    pub(super) fn is_exhausted(&self, owner: Owner) -> bool {
        Level::ALL.into_iter().any(|level| {
            self.usage(level, owner).is_some_and(|usage| {
                usage.used >= self.limits.of(level) || !usage.waiting.is_empty()
            })
        })
    }

    /// Whether `bytes` may be held without a claim, in place of `before` that already count. The
    /// bound is `times` each limit.
    pub(super) fn may_force(
        &self,
        owner: Owner,
        before: usize,
        bytes: usize,
        times: usize,
    ) -> bool {
        Level::ALL.into_iter().all(|level| {
            let most = self.limits.of(level).saturating_mul(times);
            self.usage(level, owner).is_none_or(|usage| {
                let others = usage.used.saturating_sub(before);
                others == 0 || others.saturating_add(bytes) <= most
            })
        })
    }

    /// The level at which a claim waits, and a number that changes with each claim that finds room
    /// there.
    pub(super) fn progress(&self, id: u64) -> Option<(Level, u64)> {
        let claim = self.claims.get(&id)?;
        let level = claim.waits_at?;
        Some((level, self.usage(level, claim.owner)?.granted))
    }

    /// The connection that holds the most bytes, among those that share the level with `owner`. For
    /// the total, it is a connection of the address whose connections hold the most together;
    /// otherwise many connections with few bytes each could end another client's connection with
    /// one large request. The caller ends the connection. That counts as progress, so waiting
    /// connections first see whether it was enough.
    pub(super) fn largest_owner(&mut self, level: Level, owner: Owner) -> Option<u64> {
        let mut waiting: HashMap<u64, usize> = HashMap::new();
        for claim in self.claims.values().filter(|claim| claim.waits_at > Some(Level::Connection)) {
            // Acquired at the lower levels, but not yet usable.
            *waiting.entry(claim.owner.connection).or_default() += claim.bytes;
        }
        let shares = |connection: &Connection, number: u64| match level {
            Level::Connection => number == owner.connection,
            Level::Address => connection.address == owner.address,
            Level::Total => true,
        };
        let held = |number: &u64, connection: &Connection| {
            let waiting = waiting.get(number).copied().unwrap_or(0);
            connection.usage.used.saturating_sub(waiting)
        };
        let mut by_address: HashMap<Address, usize> = HashMap::new();
        if level == Level::Total {
            for (number, connection) in &self.connections {
                *by_address.entry(connection.address).or_default() += held(number, connection);
            }
        }
        let rank = |(number, connection): (&u64, &Connection)| {
            let by_address = by_address.get(&connection.address).copied().unwrap_or(0);
            (by_address, held(number, connection), *number)
        };
        let sharing = self.connections.iter().filter(|(number, other)| shares(other, **number));
        let (_, _, largest_owner) = sharing.map(rank).max().filter(|(_, held, _)| *held > 0)?;
        self.usage_mut(level, owner).granted += 1;
        Some(largest_owner)
    }

    fn usage(&self, level: Level, owner: Owner) -> Option<&Usage> {
        match level {
            Level::Connection => self.connections.get(&owner.connection).map(|known| &known.usage),
            Level::Address => self.addresses.get(&owner.address),
            Level::Total => Some(&self.total),
        }
    }

    fn usage_mut(&mut self, level: Level, owner: Owner) -> &mut Usage {
        let Owner { connection, address } = owner;
        match level {
            Level::Connection => {
                let unused = || Connection { address, usage: Usage::default() };
                &mut self.connections.entry(connection).or_insert_with(unused).usage
            }
            Level::Address => self.addresses.entry(address).or_default(),
            Level::Total => &mut self.total,
        }
    }

    /// Acquires the bytes of a claim at this level and those above, while there is room and no
    /// older claim waits.
    fn acquire(&mut self, id: u64, from: Level, wakers: &mut Vec<Waker>) {
        let Some(&Claim { owner, bytes, .. }) = self.claims.get(&id) else { return };
        let mut next = Some(from);
        while let Some(level) = next {
            let limit = self.limits.of(level);
            let usage = self.usage_mut(level, owner);
            let first = usage.waiting.first().is_none_or(|first| *first > id);
            if !first || !usage.fits(bytes, limit) {
                usage.waiting.insert(id);
                break;
            }
            usage.used = usage.used.saturating_add(bytes);
            usage.granted += 1;
            next = level.above();
        }
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.waits_at = next;
            if next.is_none() {
                wakers.extend(claim.waker.take());
            }
        }
    }

    /// Grants the free bytes to waiting claims.
    fn grant_waiting(&mut self, owner: Owner, wakers: &mut Vec<Waker>) {
        // Start at the top, where the oldest claims are.
        for level in Level::ALL.into_iter().rev() {
            let limit = self.limits.of(level);
            loop {
                let usage = self.usage_mut(level, owner);
                let Some(&first) = usage.waiting.first() else { break };
                let bytes = self.claims.get(&first).map_or(0, |claim| claim.bytes);
                let usage = self.usage_mut(level, owner);
                if !usage.fits(bytes, limit) {
                    break;
                }
                usage.waiting.remove(&first);
                self.acquire(first, level, wakers);
            }
        }
    }

    /// Removes owners that hold nothing and wait for nothing.
    fn remove_unused(&mut self, owner: Owner) {
        if self.connections.get(&owner.connection).is_some_and(|known| known.usage.is_unused()) {
            self.connections.remove(&owner.connection);
        }
        if self.addresses.get(&owner.address).is_some_and(Usage::is_unused) {
            self.addresses.remove(&owner.address);
        }
        if self.connections.is_empty() {
            // An idle client keeps no memory.
            self.connections = HashMap::new();
            self.addresses = HashMap::new();
            self.claims = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { connection: 10, address: 20, total: 30 };

    fn owner(connection: u64) -> Owner {
        let address = Address::Ip(Ipv4Addr::new(10, 0, 0, (connection / 10) as u8).into());
        Owner { connection, address }
    }

    fn ledger() -> Ledger {
        Ledger::new(LIMITS)
    }

    fn release(ledger: &mut Ledger, id: u64) {
        ledger.release(id, &mut Vec::new());
    }

    #[test]
    fn who_shares_what_an_address_holds_among_many_connections_is_ended_before_others() {
        let mut ledger = ledger();
        for connection in 1..=4 {
            ledger.claim(owner(connection), 5);
        }
        ledger.claim(owner(10), 10);
        let (waits, granted) = ledger.claim(owner(20), 5);
        assert!(!granted && ledger.progress(waits).map(|at| at.0) == Some(Level::Total));
        assert_eq!(ledger.largest_owner(Level::Total, owner(20)), Some(4));
        assert_eq!(ledger.largest_owner(Level::Address, owner(10)), Some(10));
    }

    #[test]
    fn a_claim_waits_for_room_of_its_own_connection_and_holds_up_no_other() {
        let mut ledger = ledger();
        let (first, granted) = ledger.claim(owner(1), 8);
        assert!(granted);
        let (second, granted) = ledger.claim(owner(1), 8);
        assert!(!granted && ledger.is_exhausted(owner(1)));
        let (other, granted) = ledger.claim(owner(2), 8);
        assert!(granted, "another connection of the address");
        assert_eq!(ledger.progress(second).map(|(level, _)| level), Some(Level::Connection));
        release(&mut ledger, first);
        assert!(ledger.is_granted(second));
        release(&mut ledger, second);
        release(&mut ledger, other);
        assert_eq!(ledger.used(), 0);
        assert!(ledger.connections.is_empty() && ledger.addresses.is_empty());
    }

    #[test]
    fn those_that_wait_at_a_level_are_served_in_their_order() {
        let mut ledger = ledger();
        let (a, _) = ledger.claim(owner(1), 10);
        let (b, _) = ledger.claim(owner(2), 10);
        let (large, granted) = ledger.claim(owner(3), 8);
        assert!(!granted);
        let (small, granted) = ledger.claim(owner(4), 1);
        assert!(!granted, "it does not overtake");
        let (elsewhere, granted) = ledger.claim(owner(11), 8);
        assert!(granted, "another address has room");
        release(&mut ledger, a);
        assert!(ledger.is_granted(large) && ledger.is_granted(small));
        for id in [b, large, small, elsewhere] {
            release(&mut ledger, id);
        }
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn a_claim_above_the_limit_is_granted_when_nothing_else_is_held() {
        let mut ledger = ledger();
        let (first, _) = ledger.claim(owner(1), 1);
        let (large, granted) = ledger.claim(owner(1), 1_000);
        assert!(!granted);
        let (later, granted) = ledger.claim(owner(11), 1);
        assert!(granted);
        release(&mut ledger, first);
        // It has its connection and its address now, and still waits for all others.
        assert_eq!(ledger.progress(large).map(|(level, _)| level), Some(Level::Total));
        release(&mut ledger, later);
        assert!(ledger.is_granted(large));
    }

    #[test]
    fn the_greediest_is_found_by_what_it_holds_and_not_by_what_it_waits_for() {
        let mut ledger = ledger();
        ledger.claim(owner(1), 9);
        ledger.adjust(owner(2), 11, 0, &mut Vec::new());
        let (waits, granted) = ledger.claim(owner(3), 10);
        assert!(!granted);
        let before = ledger.progress(waits);
        assert_eq!(ledger.largest_owner(Level::Address, owner(3)), Some(2));
        assert_ne!(ledger.progress(waits), before, "others see that something was done");
        assert_eq!(ledger.largest_owner(Level::Connection, owner(1)), Some(1));
        assert_eq!(ledger.largest_owner(Level::Address, owner(50)), None);
    }

    #[test]
    fn what_is_forced_is_at_most_twice_the_limit() {
        let mut ledger = ledger();
        ledger.adjust(owner(1), 10, 0, &mut Vec::new());
        assert!(ledger.may_force(owner(1), 0, 10, 2) && !ledger.may_force(owner(1), 0, 11, 2));
        let (id, granted) = ledger.claim(owner(1), 10);
        assert!(!granted);
        ledger.force(id);
        assert!(ledger.is_granted(id) && ledger.used() == 20);
        release(&mut ledger, id);
        ledger.adjust(owner(1), 0, 10, &mut Vec::new());
        assert_eq!(ledger.used(), 0);
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Steps until all of `n` claims of the connections of one address were granted and released.
    fn served_in_turn(n: u64) -> usize {
        let mut ledger = Ledger::new(Limits { connection: 1, address: 1, total: 1 });
        let ids: Vec<u64> = (0..n)
            .map(|connection| {
                let owner = Owner { connection, address: Address::Local };
                ledger.claim(owner, 1).0
            })
            .collect();
        let mut steps = 0;
        for id in ids {
            assert!(ledger.is_granted(id));
            release(&mut ledger, id);
            steps += 1;
        }
        assert_eq!(ledger.used(), 0);
        steps
    }

    #[test]
    fn a_flood_of_claims_is_served_one_after_the_other() {
        assert_eq!(served_in_turn(20_000), 20_000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim(u64, usize),
        Release(usize),
        Adjust(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u64..40, 1_usize..12).prop_map(|(owner, bytes)| Step::Claim(owner, bytes)),
            3 => (0_usize..100).prop_map(Step::Release),
            1 => (0_u64..40, 0_usize..6).prop_map(|(owner, bytes)| Step::Adjust(owner, bytes)),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_granted_above_a_limit_no_wake_up_is_lost_and_all_ends_at_nothing(
            steps in prop::collection::vec(step(), 1..200)
        ) {
            let mut ledger = ledger();
            let mut claims: Vec<(u64, Arc<Count>, bool)> = Vec::new();
            let mut forced: BTreeMap<u64, usize> = BTreeMap::new();
            let mut wakers = Vec::new();
            for step in steps {
                let before = ledger.used();
                match step {
                    Step::Claim(number, bytes) => {
                        let (id, granted) = ledger.claim(owner(number), bytes);
                        let count = Arc::new(Count(AtomicUsize::new(0)));
                        let waker = Waker::from(Arc::clone(&count));
                        prop_assert_eq!(ledger.poll(id, &waker), granted);
                        claims.push((id, count, granted));
                        if granted && before > 0 {
                            prop_assert!(ledger.used() <= LIMITS.total);
                        }
                    }
                    Step::Release(at) if !claims.is_empty() => {
                        let (id, _, _) = claims.remove(at % claims.len());
                        ledger.release(id, &mut wakers);
                    }
                    Step::Release(_) => {}
                    Step::Adjust(number, bytes) => {
                        let less = forced.insert(number, bytes).unwrap_or(0);
                        ledger.adjust(owner(number), bytes, less, &mut wakers);
                    }
                }
                wakers.drain(..).for_each(Waker::wake);
                let mut waits = false;
                for (id, count, granted) in &claims {
                    let is_granted = ledger.is_granted(*id);
                    waits |= !is_granted;
                    // Woken exactly once, when it was granted.
                    let woken = count.0.load(Ordering::SeqCst);
                    prop_assert_eq!(woken, usize::from(is_granted && !granted));
                }
                // The oldest that waits does so for a reason.
                let oldest = claims.iter().filter(|(id, ..)| !ledger.is_granted(*id)).min_by_key(|claim| claim.0);
                if let Some((id, ..)) = oldest {
                    let claim = &ledger.claims[id];
                    let level = claim.waits_at.unwrap();
                    let usage = ledger.usage(level, claim.owner).unwrap();
                    prop_assert!(!usage.fits(claim.bytes, LIMITS.of(level)));
                }
                prop_assert!(waits || ledger.total.waiting.is_empty());
            }
            for (id, ..) in claims {
                ledger.release(id, &mut wakers);
            }
            for (number, bytes) in forced {
                ledger.adjust(owner(number), 0, bytes, &mut wakers);
            }
            prop_assert_eq!(ledger.used(), 0);
            prop_assert!(ledger.connections.is_empty() && ledger.addresses.is_empty());
            prop_assert!(ledger.claims.is_empty());
        }
    }
}
