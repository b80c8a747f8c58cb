//! Memory budgets of the connections of a server or a client.
//!
//! [`ledger`] has the rules, without I/O and without a clock. A [`Budget`] is a ledger that
//! connections share. An [`Account`] is the part of one connection. A [`Claim`] is a number of
//! bytes that a connection gets once there is room.

mod ledger;
mod limits;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use rpc_registry::sync::{Mutex, MutexGuard};

use self::ledger::Ledger;
pub(crate) use self::ledger::{Address, Owner};
pub(crate) use self::limits::Level;
use self::limits::Limits;
pub use self::limits::MemoryLimits;
use crate::error::RpcError;
use crate::observe::{MemoryMetrics, Observer, Side};

/// Bytes of each connection that do not count, so small calls work when a limit is reached.
pub(crate) const FREE: usize = 64 << 10;
/// The same for the connections of an address beyond [`CROWDED`].
const FREE_IN_A_CROWD: usize = 8 << 10;
/// Connections of one address with the whole free part.
const CROWDED: usize = 1_024;
/// Step in which the held bytes of a connection are counted.
const SETTLE_STEP: usize = 16 << 10;

/// A connection that can be closed because it holds too many bytes.
pub(crate) trait Holder: Send + Sync {
    /// Closes the connection for this reason.
    fn end(&self, why: RpcError);
}

/// Memory that connections share.
pub(crate) struct Budget {
    limits: Limits,
    observer: Observer,
    metrics: MemoryMetrics,
    next: AtomicU64,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    /// The connections in the ledger.
    holders: HashMap<u64, Weak<dyn Holder>>,
    /// Number of open connections by address. Empty at a client.
    open: HashMap<Address, usize>,
}

impl Budget {
    pub(crate) fn new(limits: MemoryLimits, observer: Observer) -> Arc<Self> {
        let limits = limits.resolved();
        let state =
            State { ledger: Ledger::new(limits), holders: HashMap::new(), open: HashMap::new() };
        Arc::new(Self {
            limits,
            observer,
            metrics: MemoryMetrics::new(observer),
            next: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    /// The account of a new connection to `peer`, a URI.
    pub(crate) fn open(self: &Arc<Self>, peer: &str) -> Arc<Account> {
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        let owner = Owner { connection, address: Address::of(peer) };
        let (holder, settled) = (OnceLock::new(), AtomicUsize::new(0));
        let mut state = self.lock();
        let mut free = FREE;
        // A client decides itself how many connections it makes.
        if self.observer.side() == Side::Server {
            let open = state.open.entry(owner.address).or_default();
            *open += 1;
            if *open > CROWDED {
                free = FREE_IN_A_CROWD;
            }
        }
        drop(state);
        Arc::new(Account { budget: Arc::clone(self), owner, free, holder, settled })
    }

    /// Window of all streams of a connection, in bytes: half of the connection's limit.
    pub(crate) fn stream_window(&self) -> u32 {
        u32::try_from(self.limits.connection / 2).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The part of one connection in a budget.
pub(crate) struct Account {
    budget: Arc<Budget>,
    owner: Owner,
    /// Bytes that do not count.
    free: usize,
    holder: OnceLock<Weak<dyn Holder>>,
    /// The last [settled](Self::settle) number of bytes.
    settled: AtomicUsize,
}

impl Account {
    /// Sets the connection that is closed when it holds too many bytes. Only the first call has an
    /// effect.
    pub(crate) fn belongs_to(&self, holder: Weak<dyn Holder>) {
        let _ = self.holder.set(holder);
    }

    /// Whether the connection holds more than its free part, without claims.
    #[inline]
    pub(crate) fn is_charged(&self) -> bool {
        self.settled.load(Ordering::Relaxed) > 0
    }

    /// Sets the bytes that the connection holds, without claims. Must be called by one thread at a
    /// time. Returns whether it now counts for less.
    #[inline]
    pub(crate) fn settle(&self, held: usize, wakers: &mut Vec<Waker>) -> bool {
        if held <= self.free && !self.is_charged() {
            return false;
        }
        self.settle_large(held, wakers)
    }

    fn settle_large(&self, held: usize, wakers: &mut Vec<Waker>) -> bool {
        let due = held.saturating_sub(self.free).div_ceil(SETTLE_STEP).saturating_mul(SETTLE_STEP);
        let before = self.settled.swap(due, Ordering::Relaxed);
        if due != before {
            self.with(|ledger, owner| ledger.adjust(owner, due, before, wakers));
        }
        due < before
    }

    /// Minimum size of a frame whose bytes are claimed before it is read.
    #[inline]
    pub(crate) fn large_from(&self) -> usize {
        self.free
    }

    /// Whether a claim beyond the free part would have to wait.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.budget.lock().ledger.is_exhausted(self.owner)
    }

    /// Whether this many more bytes may be held without a claim.
    pub(crate) fn may_force(&self, bytes: usize) -> bool {
        self.may_grow(0, bytes)
    }

    /// Whether there is room for this many more bytes.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.budget.lock().ledger.may_force(self.owner, 0, bytes, 1)
    }

    /// Whether `bytes` may be held without a claim, in place of `before` that already count.
    pub(crate) fn may_grow(&self, before: usize, bytes: usize) -> bool {
        self.budget.lock().ledger.may_force(self.owner, before, bytes, 2)
    }

    /// Claims bytes. Dropping the claim returns them.
    pub(crate) fn claim(self: &Arc<Self>, bytes: usize) -> Claim {
        let (id, granted) = self.with(|ledger, owner| ledger.claim(owner, bytes));
        if !granted {
            self.budget.observer.waited_for_memory();
        }
        Claim { account: Arc::clone(self), id, bytes, granted, released: false }
    }

    /// Changes the ledger, then updates the gauge and the connections that may be ended.
    fn with<R>(&self, change: impl FnOnce(&mut Ledger, Owner) -> R) -> R {
        let mut state = self.budget.lock();
        let State { ledger, holders, .. } = &mut *state;
        let before = ledger.used();
        let result = change(ledger, self.owner);
        let after = ledger.used();
        let number = self.owner.connection;
        if !ledger.contains(number) {
            holders.remove(&number);
            if holders.is_empty() {
                *holders = HashMap::new();
            }
        } else if let Some(holder) = self.holder.get() {
            holders.entry(number).or_insert_with(|| Weak::clone(holder));
        }
        drop(state);
        self.budget.metrics.changed(before, after);
        result
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        self.settle(0, &mut wakers);
        let mut state = self.budget.lock();
        if let Entry::Occupied(mut open) = state.open.entry(self.owner.address) {
            match open.get().checked_sub(1) {
                None | Some(0) => drop(open.remove()),
                Some(left) => *open.get_mut() = left,
            }
        }
        if state.open.is_empty() {
            state.open = HashMap::new();
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Claimed bytes of a connection. Returned when dropped.
pub(crate) struct Claim {
    account: Arc<Account>,
    id: u64,
    bytes: usize,
    granted: bool,
    released: bool,
}

impl Claim {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Completes once there is room. Cancel safe.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.granted {
            self.granted = self.account.budget.lock().ledger.poll(self.id, cx.waker());
        }
        if self.granted { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the bytes now, regardless of the limits.
    pub(crate) fn force(&mut self) {
        let id = self.id;
        self.account.with(|ledger, _| ledger.force(id));
        self.granted = true;
    }

    /// The level at which it waits, and a number that changes when claims that wait there progress.
    pub(crate) fn progress(&self) -> Option<(Level, u64)> {
        self.account.budget.lock().ledger.progress(self.id)
    }

    /// Closes the connection that holds the most at the level where this claim waits.
    pub(crate) fn end_greediest(&self, level: Level) {
        let largest_owner = {
            let mut state = self.account.budget.lock();
            let number = state.ledger.largest_owner(level, self.account.owner);
            number.and_then(|number| state.holders.get(&number)?.upgrade())
        };
        if let Some(holder) = largest_owner {
            holder.end(self.account.budget.limits.exceeded(level));
        }
    }

    /// The same as dropping it; the caller must wake `wakers`.
    pub(crate) fn release(mut self, wakers: &mut Vec<Waker>) {
        self.release_once(wakers);
    }

    fn release_once(&mut self, wakers: &mut Vec<Waker>) {
        if !std::mem::replace(&mut self.released, true) {
            let id = self.id;
            self.account.with(|ledger, _| ledger.release(id, wakers));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        self.release_once(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_of_an_address_have_a_smaller_free_part_and_hold_no_more_in_all() {
        let budget = Budget::new(MemoryLimits::default(), Observer::new(Side::Server, false));
        let mut accounts: Vec<_> =
            (0..CROWDED).map(|port| budget.open(&format!("tcp://10.0.0.1:{port}"))).collect();
        assert!(accounts.iter().all(|account| account.large_from() == FREE));
        let late = budget.open("tcp://10.0.0.1:65000");
        assert_eq!(late.large_from(), FREE_IN_A_CROWD);
        late.settle(FREE_IN_A_CROWD, &mut Vec::new());
        assert!(!late.is_charged());
        late.settle(FREE_IN_A_CROWD + 1, &mut Vec::new());
        assert!(late.is_charged());
        assert_eq!(budget.open("tcp://10.0.0.2:1").large_from(), FREE, "another address");
        drop((accounts.pop(), late));
        assert_eq!(budget.open("tcp://10.0.0.1:2").large_from(), FREE, "one has left");
        drop(accounts);
        assert!(budget.lock().open.is_empty());
    }
}
