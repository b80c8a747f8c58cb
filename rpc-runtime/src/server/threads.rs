//! [`Threads`]: the threads of a server, as one connection uses them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::thread_pool::NoThread;
use super::workers::AddressWork;
use crate::budget::Owner;
use crate::error::RpcError;

/// The decoding threads and the threads for blocking methods. Connections take turns.
#[derive(Clone)]
pub(super) struct Threads {
    address: Arc<AddressWork>,
    /// Number of the connection, unique in the server.
    connection: u64,
}

/// Work that was not done on a thread.
pub(super) enum NotRun<W> {
    /// No thread can be started.
    NoThread(W),
    /// It has panicked.
    Panicked,
}

impl Threads {
    pub(super) fn new(address: Arc<AddressWork>, connection: u64) -> Self {
        Self { address, connection }
    }

    pub(super) fn address(&self) -> &Arc<AddressWork> {
        &self.address
    }

    fn owner(&self) -> Owner {
        Owner { connection: self.connection, address: self.address.address() }
    }

    /// Runs `job` on a decoding thread. It is queued at once. Dropping the future removes it from the
    /// queue.
    ///
    /// # Errors
    /// No thread can be started, or the job panicked.
    pub(super) fn decode<T, J>(
        &self,
        job: J,
    ) -> impl Future<Output = Result<T, RpcError>> + Send + use<T, J>
    where
        T: Send + 'static,
        J: FnOnce() -> T + Send + 'static,
    {
        self.address.workers().decoding.value(self.owner(), job)
    }

    /// Runs the future that `run` makes of `work` on a thread for blocking methods. It is queued at
    /// once. Dropping the returned future removes it from the queue, and ends a running one at its
    /// next await.
    pub(super) fn block_on<W, R, F, T>(
        &self,
        work: W,
        run: R,
    ) -> impl Future<Output = Result<T, NotRun<W>>> + Send + use<W, R, F, T>
    where
        W: Send + 'static,
        R: FnOnce(W) -> F + Send + 'static,
        F: Future<Output = T>,
        T: Send + 'static,
    {
        let runtime = Handle::current();
        let (wanted, unwanted) = oneshot::channel::<()>();
        let (done, outcome) = oneshot::channel();
        let queued = self.address.workers().blocking.run(self.owner(), move |thread| {
            let outcome = match thread {
                Ok(()) => runtime.block_on(async {
                    tokio::select! {
                        biased;
                        _ = unwanted => None,
                        value = run(work) => Some(Ok(value)),
                    }
                }),
                Err(NoThread) => Some(Err(NotRun::NoThread(work))),
            };
            if let Some(outcome) = outcome {
                // The receiver may be gone.
                let _ = done.send(outcome);
            }
        });
        async move {
            let outcome = outcome.await;
            drop((queued, wanted));
            outcome.unwrap_or(Err(NotRun::Panicked))
        }
    }
}
