//! [`Workers`]: what the connections of a server share for running their requests.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use tokio::sync::mpsc;

use super::fair_queue::needed;
use super::thread_pool::ThreadPool;
use crate::budget::Address;
use crate::observe::{Observer, PoolMetrics, WorkMetrics};

const RELAXED: Ordering = Ordering::Relaxed;

/// Limits of a server's running requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkLimits {
    /// Requests of all connections.
    pub(super) requests: usize,
    /// Threads for blocking methods.
    pub(super) blocking_threads: usize,
}

impl Default for WorkLimits {
    fn default() -> Self {
        Self { requests: 65_536, blocking_threads: 512 }
    }
}

/// The resources for running requests that all connections of a server share.
pub(super) struct Workers {
    /// Running requests. Those answered in place are not counted.
    in_work: AtomicUsize,
    max_in_work: usize,
    /// With fewer than this no connection and no address can have more than its share.
    few: usize,
    metrics: WorkMetrics,
    pub(super) blocking: ThreadPool,
    /// Leaves one core for everything else.
    pub(super) decoding: ThreadPool,
    /// Those with connections.
    addresses: Mutex<HashMap<Address, Weak<AddressWork>>>,
    /// The server has not ended until this is dropped.
    _done: mpsc::Sender<()>,
}

impl Workers {
    /// Must be called on a thread that is not pinned to a core.
    pub(super) fn new(limits: WorkLimits, observer: Observer, done: mpsc::Sender<()>) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let pool = |name, label, threads| {
            ThreadPool::new(name, threads, PoolMetrics::new(observer, label))
        };
        Self {
            in_work: AtomicUsize::new(0),
            max_in_work: limits.requests,
            few: limits.requests / 2,
            metrics: WorkMetrics::new(observer),
            blocking: pool("rpc-block", "blocking", limits.blocking_threads),
            decoding: pool("rpc-decode", "decoding", cores.saturating_sub(1)),
            addresses: Mutex::default(),
            _done: done,
        }
    }

    /// Maximum running requests of all connections.
    pub(super) fn max_in_work(&self) -> usize {
        self.max_in_work
    }

    /// What the connections of this address share.
    pub(super) fn of(self: &Arc<Self>, address: Address) -> Arc<AddressWork> {
        let mut addresses = self.addresses();
        let known = addresses.get(&address).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let (workers, in_work) = (Arc::clone(self), AtomicUsize::new(0));
            let work = Arc::new(AddressWork { workers, address, in_work });
            addresses.insert(address, Arc::downgrade(&work));
            work
        })
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<Address, Weak<AddressWork>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The workers as the connections of one address use them.
pub(super) struct AddressWork {
    workers: Arc<Workers>,
    address: Address,
    /// Running requests of the address.
    in_work: AtomicUsize,
}

impl AddressWork {
    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// Whether a connection of the address that has so many running requests may begin another.
    #[inline]
    pub(super) fn may_begin(&self, connection: usize) -> bool {
        let in_work = self.workers.in_work.load(RELAXED);
        in_work < self.workers.few || self.has_share_left(connection, in_work)
    }

    #[cold]
    fn has_share_left(&self, connection: usize, in_work: usize) -> bool {
        let free = self.workers.max_in_work.saturating_sub(in_work);
        needed(connection, self.in_work.load(RELAXED)) <= free
    }
}

impl Drop for AddressWork {
    fn drop(&mut self) {
        let mut addresses = self.workers.addresses();
        // There may be a new one by now.
        if addresses.get(&self.address).is_some_and(|work| work.strong_count() == 0) {
            addresses.remove(&self.address);
        }
    }
}

/// A running request, counted until it is dropped.
pub(super) struct InWork(Arc<AddressWork>);

impl InWork {
    pub(super) fn begin(address: &Arc<AddressWork>) -> Self {
        address.in_work.fetch_add(1, RELAXED);
        address.workers.in_work.fetch_add(1, RELAXED);
        address.workers.metrics.began();
        Self(Arc::clone(address))
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.in_work.fetch_sub(1, RELAXED);
        self.0.workers.in_work.fetch_sub(1, RELAXED);
        self.0.workers.metrics.ended();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::observe::Side;

    #[test]
    fn the_requests_of_one_address_leave_room_for_another_and_an_address_is_forgotten() {
        let limits = WorkLimits { requests: 64, blocking_threads: 1 };
        let (done, _done) = mpsc::channel(1);
        let workers = Arc::new(Workers::new(limits, Observer::new(Side::Server, false), done));
        let [first, second] =
            [1, 2].map(|last| workers.of(Address::Ip(Ipv4Addr::new(10, 0, 0, last).into())));
        // Each connection has none.
        let begin =
            |address: &Arc<AddressWork>| address.may_begin(0).then(|| InWork::begin(address));
        let mut running: Vec<_> = std::iter::from_fn(|| begin(&first)).collect();
        assert_eq!(running.len(), 60);
        assert!(Arc::ptr_eq(&first, &workers.of(first.address())), "another connection");
        running.push(begin(&second).unwrap());
        assert!(begin(&first).is_none());
        assert!(!second.may_begin(3), "a connection with as many as are free");
        drop((first, running));
        assert_eq!(workers.addresses().len(), 1);
        drop(second);
        assert_eq!((workers.addresses().len(), workers.in_work.load(RELAXED)), (0, 0));
    }
}
