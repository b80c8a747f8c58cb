use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep, timeout_at};

use super::changes::{Change, Reply};
use super::commit;
use super::folder::Folder;
use super::format::ListEntry;
use super::lock::{self, Mode};
use super::lookup::{Lookup, ServiceState};
use super::shared_folder::SharedFolder;
use super::ticket_lock::{Attempt, TicketLock};
use crate::private_files::Access;
use crate::{Instance, RegistryError};

/// How long a thread of the blocking pool waits for a lock that will soon be free.
const ATTEMPT: Duration = Duration::from_millis(10);

/// A connection to a folder.
pub(super) struct Store {
    folder: Arc<Folder>,
    lock_timeout: Duration,
    shared: Arc<SharedFolder>,
    /// The runtime in which the connection was made.
    runtime: Handle,
}

impl Store {
    /// Opens the folder with this path, which need not exist.
    pub(super) async fn open(
        path: PathBuf,
        uri: String,
        access: Access,
        lock_timeout: Duration,
    ) -> Result<Self, RegistryError> {
        let runtime = runtime()?;
        blocking(move || {
            let folder = Arc::new(Folder::open(&path, &uri, access)?);
            Ok(Self { shared: SharedFolder::at(folder.root()), folder, lock_timeout, runtime })
        })
        .await
    }

    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn shared(&self) -> &SharedFolder {
        &self.shared
    }

    fn lookups(&self) -> Lookup<'_> {
        Lookup { folder: &self.folder, shared: &self.shared, lock_timeout: self.lock_timeout }
    }

    /// The living instances of one service, ordered by id.
    pub(super) async fn lookup(
        self: &Arc<Self>,
        service: &str,
    ) -> Result<Vec<Instance>, RegistryError> {
        let service = service.to_owned();
        let state = self.read(move |store| store.lookups().state(&service, &[], false)).await?;
        Ok(state.map(|state| state.living).unwrap_or_default())
    }

    /// The state of a service whose entries were `known`. `None` if `only_if_changed` is set and
    /// the entries have not changed.
    pub(super) async fn state_of(
        self: &Arc<Self>,
        service: &str,
        known: Vec<Arc<ListEntry>>,
        only_if_changed: bool,
    ) -> Result<Option<ServiceState>, RegistryError> {
        let service = service.to_owned();
        self.read(move |store| store.lookups().state(&service, &known, only_if_changed)).await
    }

    /// The names of all services with a living instance.
    pub(super) async fn services(self: &Arc<Self>) -> Result<Vec<String>, RegistryError> {
        self.read(|store| store.lookups().services()).await
    }

    /// Runs `job` without any lock.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let _permit = self.shared.readers.acquire().await;
        let store = Arc::clone(self);
        blocking(move || job(&store)).await
    }

    /// Changes the list, together with the changes of other tasks.
    ///
    /// Waiting uses no thread, since the holder of the registry lock may be stopped for long. A
    /// change that is being written is completed even if the future is dropped; its registration is
    /// dropped then.
    pub(super) async fn commit<T>(
        self: &Arc<Self>,
        change: impl FnOnce(Reply<T>) -> Change,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + self.lock_timeout;
        let (reply, mut outcome) = oneshot::channel();
        let number = self.shared.queue.push(change(reply));
        let failed = tokio::select! {
            biased;
            outcome = &mut outcome => return received(outcome),
            writer = timeout_at(deadline, self.shared.writers.lock()) => match writer {
                Ok(_writer) => loop {
                    match outcome.try_recv() {
                        Ok(outcome) => return outcome,
                        Err(TryRecvError::Closed) => return Err(interrupted()),
                        Err(TryRecvError::Empty) => {}
                    }
                    if let Err(error) = self.write_waiting(deadline).await {
                        break error;
                    }
                },
                Err(_) => lock::timed_out(&self.folder, self.lock_timeout),
            },
        };
        if self.shared.queue.cancel(number) {
            return Err(failed);
        }
        // Another task is writing it now.
        received(outcome.await)
    }

    /// Takes the registry lock, in the order of arrival, and writes the waiting changes.
    async fn write_waiting(self: &Arc<Self>, deadline: Instant) -> Result<(), RegistryError> {
        let mut lock = TicketLock::new(Mode::Exclusive);
        loop {
            let store = Arc::clone(self);
            let attempt = move || match lock.try_for(&store.folder, ATTEMPT)? {
                Attempt::Locked(_guard) => {
                    commit::write_waiting(&store.folder, &store.shared);
                    Ok(ControlFlow::Break(()))
                }
                Attempt::RetryAfter(pause) => Ok(ControlFlow::Continue((lock, pause))),
            };
            let pause = match blocking(attempt).await? {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue((waiting, pause)) => {
                    lock = waiting;
                    pause
                }
            };
            if Instant::now() + pause > deadline {
                return Err(lock::timed_out(&self.folder, self.lock_timeout));
            }
            sleep(pause).await;
        }
    }
}

fn received<T>(outcome: Result<Result<T, RegistryError>, RecvError>) -> Result<T, RegistryError> {
    outcome.unwrap_or_else(|_| Err(interrupted()))
}

fn interrupted() -> RegistryError {
    RegistryError::unavailable("the access to the registry was interrupted")
}

/// Runs `job` where blocking is allowed.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    runtime()?.spawn_blocking(job).await.unwrap_or_else(|error| {
        Err(RegistryError::unavailable(format!(
            "the access to the registry was interrupted: {error}"
        ))
        .with_source(error))
    })
}

fn runtime() -> Result<Handle, RegistryError> {
    Handle::try_current().map_err(|error| {
        RegistryError::unavailable("a file: registry needs a tokio runtime").with_source(error)
    })
}
