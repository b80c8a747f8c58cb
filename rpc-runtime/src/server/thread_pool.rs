//! [`ThreadPool`]: threads for jobs that must not run on the runtime's threads.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rpc_registry::limited;
use tokio::sync::oneshot;

use super::cores::Cores;
use super::fair_queue::FairQueue;
use crate::budget::Owner;
use crate::error::RpcError;
use crate::observe::PoolMetrics;
use crate::status::Status;

/// An idle thread ends after this time; tokio's value.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A job. It is called with `Ok` on a thread of the pool, or with an error in place if no thread
/// can be started.
type Job = Box<dyn FnOnce(Result<(), NoThread>) + Send>;

/// The operating system refused to start a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoThread;

/// Threads that are started on demand and end when idle. Addresses take turns, and so do their
/// connections; each has at most its share of the threads ([`FairQueue`]).
///
/// When the pool is dropped, waiting jobs still run, then the threads end.
pub(super) struct ThreadPool(Arc<Shared>);

struct Shared {
    name: &'static str,
    max_threads: usize,
    /// Threads inherit the pinning of the thread that starts them.
    cores: Cores,
    metrics: PoolMetrics,
    state: Mutex<State>,
    woken: Condvar,
}

struct State {
    queue: FairQueue<Job>,
    threads: usize,
    /// Threads started so far, for their names.
    started: u64,
    /// Threads that sleep and were not woken.
    idle: usize,
    /// Threads that were woken and have not run yet.
    notified: usize,
    closed: bool,
}

/// A queued job. Dropping it removes the job if it has not begun.
#[must_use = "dropping it removes the job"]
pub(super) struct Queued {
    pool: Arc<Shared>,
    owner: Owner,
    number: u64,
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("ThreadPool")
            .field("name", &self.0.name)
            .field("threads", &state.threads)
            .field("busy", &state.queue.taken())
            .field("waiting", &state.queue.waiting())
            .finish_non_exhaustive()
    }
}

impl ThreadPool {
    /// A pool of at most `max_threads` threads, at least one. Must be called on a thread that is
    /// not pinned.
    pub(super) fn new(name: &'static str, max_threads: usize, metrics: PoolMetrics) -> Self {
        let max_threads = max_threads.max(1);
        let state = State {
            queue: FairQueue::new(max_threads),
            threads: 0,
            started: 0,
            idle: 0,
            notified: 0,
            closed: false,
        };
        Self(Arc::new(Shared {
            name,
            max_threads,
            cores: Cores::available(),
            metrics,
            state: Mutex::new(state),
            woken: Condvar::new(),
        }))
    }

    /// Runs `job` when it is the turn of `owner`.
    pub(super) fn run(
        &self,
        owner: Owner,
        job: impl FnOnce(Result<(), NoThread>) + Send + 'static,
    ) -> Queued {
        let mut state = self.0.lock();
        let number = state.queue.push(owner, Box::new(job));
        self.0.metrics.queued();
        self.0.wake_one(state);
        Queued { pool: Arc::clone(&self.0), owner, number }
    }

    /// The value of `job`, which runs when it is the turn of `owner`. Dropping the future
    /// removes the job if it has not begun.
    ///
    /// # Errors
    /// No thread can be started, or the job panicked.
    pub(super) fn value<T, J>(
        &self,
        owner: Owner,
        job: J,
    ) -> impl Future<Output = Result<T, RpcError>> + Send + use<T, J>
    where
        T: Send + 'static,
        J: FnOnce() -> T + Send + 'static,
    {
        let (sender, value) = oneshot::channel();
        let queued = self.run(owner, move |thread| {
            // The receiver may be gone.
            let _ = sender.send(thread.map(|()| job()));
        });
        async move {
            let value = value.await;
            drop(queued);
            let panicked = |_| RpcError::internal("a job panicked");
            Ok(value.map_err(panicked)??)
        }
    }
}

impl From<NoThread> for RpcError {
    fn from(_: NoThread) -> Self {
        let message = "the provider cannot start a thread for the call";
        Self::new(Status::Overloaded, message).unexecuted()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.woken.notify_all();
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let job = self.pool.lock().queue.remove(self.owner, self.number);
        // Dropped outside of the lock: it contains a user's values.
        if job.is_some() {
            self.pool.metrics.taken_back();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No job runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes or starts a thread if there is a job that may run.
    fn wake_one(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if !state.queue.has_next() {
            return;
        }
        if state.idle > 0 {
            state.idle -= 1;
            state.notified += 1;
            drop(state);
            self.woken.notify_one();
        } else if state.threads < self.max_threads {
            let number = state.started;
            state.threads += 1;
            state.started += 1;
            drop(state);
            self.start_thread(number);
        }
    }

    fn start_thread(self: &Arc<Self>, number: u64) {
        let pool = Arc::clone(self);
        let thread = thread::Builder::new().name(format!("{}-{number}", self.name));
        let Err(error) = thread.spawn(move || pool.work()) else { return };
        limited!(error, %error, pool = self.name, "cannot start a thread");
        let mut state = self.lock();
        state.threads -= 1;
        // Other threads run the job later.
        let refused = if state.threads == 0 { state.queue.drain() } else { Vec::new() };
        drop(state);
        for job in refused {
            self.metrics.taken_back();
            job(Err(NoThread));
        }
    }

    /// Runs jobs until there are none for [`KEEP_ALIVE`].
    fn work(self: Arc<Self>) {
        self.cores.release();
        let mut state = self.lock();
        loop {
            while let Some((owner, job)) = state.queue.pop() {
                self.metrics.began();
                // One event may have made room for two.
                self.wake_one(state);
                // A job that panics ends no thread. Panics of users' code are caught within the
                // job, and its caller gets the error.
                let _ = catch_unwind(AssertUnwindSafe(|| job(Ok(()))));
                self.metrics.ended();
                state = self.lock();
                state.queue.finish(owner);
            }
            if state.closed && state.queue.waiting() == 0 {
                break;
            }
            state.idle += 1;
            let unwoken = |state: &mut State| state.notified == 0 && !state.closed;
            let (woken, waited) = self
                .woken
                .wait_timeout_while(state, KEEP_ALIVE, unwoken)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if state.notified > 0 {
                state.notified -= 1;
                continue;
            }
            state.idle -= 1;
            if waited.timed_out() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::budget::Address;
    use crate::observe::{Observer, Side};

    fn owner(connection: u64) -> Owner {
        Owner { connection, address: Address::Local }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pool(threads: usize) -> ThreadPool {
        let metrics = PoolMetrics::new(Observer::new(Side::Server, false), "test");
        ThreadPool::new("test", threads, metrics)
    }

    #[test]
    fn the_jobs_of_one_connection_leave_a_thread_for_that_of_another() {
        let pool = pool(8);
        let (begun, begins) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let job = |connection: u64| {
            let (begun, gate) = (begun.clone(), Arc::clone(&gate));
            pool.run(owner(connection), move |_| {
                begun.send(connection).unwrap();
                let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
            })
        };
        let many: Vec<_> = (0..100).map(|_| job(1)).collect();
        for _ in 0..4 {
            assert_eq!(begins.recv_timeout(PATIENCE), Ok(1));
        }
        let other = job(2);
        assert_eq!(begins.recv_timeout(PATIENCE), Ok(2));
        assert!(begins.try_recv().is_err(), "one connection has more than its share");
        // Waiting jobs are removed, running ones continue.
        drop(many);
        drop(release);
        drop(other);
        assert_eq!(pool.0.lock().queue.waiting(), 0);
    }

    #[test]
    fn a_job_that_panics_does_not_take_its_thread_with_it() {
        let pool = pool(1);
        let (done, finished) = mpsc::channel();
        let panics = pool.run(owner(1), |_| panic!("in the pool"));
        let other = pool.run(owner(1), move |_| done.send(()).unwrap());
        assert_eq!(finished.recv_timeout(PATIENCE), Ok(()));
        assert!(pool.0.lock().threads <= 1);
        drop((panics, other));
    }

    #[test]
    fn what_a_pool_shows_of_itself_comes_back_to_nothing() {
        let recorder = DebuggingRecorder::new();
        let metrics = metrics::with_local_recorder(&recorder, || {
            PoolMetrics::new(Observer::new(Side::Server, true), "test")
        });
        let gauges = || {
            let seen = recorder.snapshotter().snapshot().into_vec();
            let mut values: Vec<_> = seen
                .into_iter()
                .map(|(key, _, _, value)| match value {
                    DebugValue::Gauge(value) => (key.key().name().to_owned(), value.0),
                    other => panic!("{other:?}"),
                })
                .collect();
            values.sort_by(|a, b| a.0.cmp(&b.0));
            values.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        let pool = ThreadPool::new("test", 1, metrics);
        let (release, gate) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let running = pool.run(owner(1), move |_| {
            begun.send(()).unwrap();
            let _ = gate.recv();
        });
        begins.recv_timeout(PATIENCE).unwrap();
        let (waiting, given_up) = (pool.run(owner(1), |_| ()), pool.run(owner(2), |_| ()));
        drop(given_up);
        assert_eq!(gauges(), [1.0, 1.0], "queued, busy");
        drop(release);
        let until = std::time::Instant::now() + PATIENCE;
        while gauges() != [0.0, 0.0] {
            assert!(std::time::Instant::now() < until, "{:?}", gauges());
            thread::yield_now();
        }
        drop((running, waiting));
    }

    #[test]
    fn jobs_that_wait_still_run_when_the_pool_is_dropped() {
        let pool = pool(1);
        let (done, finished) = mpsc::channel();
        let jobs: Vec<_> = (0..10)
            .map(|number| {
                let done = done.clone();
                pool.run(owner(1), move |_| done.send(number).unwrap())
            })
            .collect();
        let shared = Arc::downgrade(&pool.0);
        drop(pool);
        for number in 0..10 {
            assert_eq!(finished.recv_timeout(PATIENCE), Ok(number));
        }
        drop(jobs);
        let gone = std::time::Instant::now() + PATIENCE;
        while shared.strong_count() > 0 {
            assert!(std::time::Instant::now() < gone, "a thread stays");
            thread::yield_now();
        }
    }
}
