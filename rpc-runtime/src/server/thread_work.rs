//! [`OnThread`]: a method on a thread for blocking methods, behind the interceptors of its call.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::thread_pool::NoThread;
use super::threads::{NotRun, Threads};
use super::workers::InWork;
use crate::call::Reply;
use crate::connection::{Channel, WorkId};
use crate::error::RpcError;

/// Waits for a method that runs on a thread.
///
/// A method that blocks does not end when nobody waits for it any more. Its request and the memory
/// of its arguments count until it has returned: by the task of its chain, and by the thread once
/// that task has gone. Otherwise cancelling would be a way around the limits.
pub(super) struct OnThread {
    outcome: Pin<Box<dyn Future<Output = Result<Reply, RpcError>> + Send>>,
    shared: Arc<Shared>,
}

struct Shared {
    channel: Arc<Channel>,
    threads: Threads,
    /// Of the arguments, in bytes.
    memory: usize,
    phase: Mutex<Phase>,
}

enum Phase {
    Queued,
    Running,
    /// The chain has gone first.
    Abandoned(Option<Counted>),
    Ended,
}

/// What counts for a method that is not waited for.
struct Counted {
    work: WorkId,
    _in_work: InWork,
}

impl OnThread {
    /// Runs `method`, whose arguments take so many bytes of memory. It is queued at once.
    pub(super) fn new<F>(
        channel: &Arc<Channel>,
        threads: &Threads,
        memory: usize,
        method: F,
    ) -> Self
    where
        F: Future<Output = Result<Reply, RpcError>> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            channel: Arc::clone(channel),
            threads: threads.clone(),
            memory,
            phase: Mutex::new(Phase::Queued),
        });
        let running = Arc::clone(&shared);
        let done = threads.block_on((), move |()| async move {
            let Some(_ended) = Ended::begin(running) else { return Err(NoThread.into()) };
            method.await
        });
        let outcome = Box::pin(async move {
            match done.await {
                Ok(outcome) => outcome,
                Err(NotRun::NoThread(())) => Err(NoThread.into()),
                Err(NotRun::Panicked) => Err(RpcError::internal("the job of a thread panicked")),
            }
        });
        Self { outcome, shared }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, RpcError>> {
        self.outcome.as_mut().poll(cx)
    }
}

impl Drop for OnThread {
    fn drop(&mut self) {
        let mut phase = self.shared.lock();
        match *phase {
            // It does not begin any more.
            Phase::Queued => *phase = Phase::Abandoned(None),
            Phase::Running => *phase = Phase::Abandoned(self.shared.count()),
            Phase::Abandoned(_) | Phase::Ended => {}
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> Option<Counted> {
        // Nobody waits for an answer, as with a oneway.
        let work = self.channel.start_work(0, true, self.memory)?;
        Some(Counted { work, _in_work: InWork::begin(self.threads.address()) })
    }
}

/// Notes that the method has ended when it is dropped.
struct Ended(Arc<Shared>);

impl Ended {
    /// `None` if the chain has gone already.
    fn begin(shared: Arc<Shared>) -> Option<Self> {
        let mut phase = shared.lock();
        let Phase::Queued = *phase else { return None };
        *phase = Phase::Running;
        drop(phase);
        Some(Self(shared))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.0.lock(), Phase::Ended);
        if let Phase::Abandoned(Some(counted)) = before {
            self.0.channel.finish_work(counted.work);
        }
    }
}
