use std::collections::HashSet;
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
use super::lease;
use super::list::List;
use super::liveness::{Liveness, LivenessCheck};
use super::lock::{self, Mode};
use super::shared_folder::SharedFolder;
use super::ticket_lock::{self, Attempt, TicketLock};
use crate::private_files::Access;
use crate::{Instance, RegistryError};

/// How long a thread of the blocking pool waits for a lock that will soon be free.
const ATTEMPT: Duration = Duration::from_millis(10);
/// How often a lookup is repeated after concurrent writes before it locks out writers.
const UNLOCKED_LOOKUPS: usize = 16;

/// A connection to a folder. The methods that are not `async` block.
pub(super) struct Store {
    folder: Arc<Folder>,
    lock_timeout: Duration,
    shared: Arc<SharedFolder>,
    /// The runtime in which the connection was made.
    runtime: Handle,
}

/// The state of one service.
pub(super) struct ServiceState {
    /// The living instances, ordered by id.
    pub(super) living: Vec<Instance>,
    /// The ids of expired instances, and of those that are no longer listed although they hold
    /// their
    /// leases.
    pub(super) expired: Vec<String>,
    /// All entries, alive or not.
    pub(super) entries: Vec<Arc<ListEntry>>,
    /// Whether the list was deleted.
    pub(super) is_list_missing: bool,
    /// Whether entries were lost.
    pub(super) is_faulty: bool,
    /// The time until the first living instance may expire.
    pub(super) expires_in: Option<Duration>,
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

    /// The current list.
    fn list(&self) -> Result<Arc<List>, RegistryError> {
        self.shared.lists.current(&self.folder)
    }

    /// The living instances of one service, ordered by id.
    pub(super) async fn lookup(
        self: &Arc<Self>,
        service: &str,
    ) -> Result<Vec<Instance>, RegistryError> {
        let service = service.to_owned();
        let state = self.read(move |store| store.state(&service, &[], false)).await?;
        Ok(state.map(|state| state.living).unwrap_or_default())
    }

    /// The state of a service whose entries were `known`. `None` if `only_if_changed` is set and
    /// the
    /// entries have not changed.
    pub(super) async fn state_of(
        self: &Arc<Self>,
        service: &str,
        known: Vec<Arc<ListEntry>>,
        only_if_changed: bool,
    ) -> Result<Option<ServiceState>, RegistryError> {
        let service = service.to_owned();
        self.read(move |store| store.state(&service, &known, only_if_changed)).await
    }

    /// The names of all services with a living instance.
    pub(super) async fn services(self: &Arc<Self>) -> Result<Vec<String>, RegistryError> {
        self.read(|store| {
            let list = store.list()?;
            let mut names = Vec::new();
            for (name, entries) in list.intact(&store.folder)?.services() {
                // The first entry is usually alive. Otherwise the complete check also finds a
                // provider that has just replaced another one.
                let is_alive = match entries.first() {
                    Some(entry) => LivenessCheck::now(&store.folder).of(entry)?.is_alive(),
                    None => false,
                };
                let state = || store.state(name, &[], false);
                if is_alive || state()?.is_some_and(|state| !state.living.is_empty()) {
                    names.push(name.to_owned());
                }
            }
            Ok(names)
        })
        .await
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

    /// Which instances of a service are alive.
    ///
    /// The list is only ever replaced as a whole, so it is read without a lock, and a lookup never
    /// waits for a writer that is stopped. But the result must not be empty because a provider was
    /// replaced by another one after the list was read, and is then found dead. So if an instance
    /// is
    /// found dead and the list has changed since it was read, the lookup is repeated.
    fn state(
        &self,
        service: &str,
        known: &[Arc<ListEntry>],
        only_if_changed: bool,
    ) -> Result<Option<ServiceState>, RegistryError> {
        let mut lookups = 0;
        let mut without_writers = None;
        loop {
            let list = self.list()?;
            let entries = list.intact(&self.folder)?.of(service);
            if only_if_changed && is_same(known, entries) {
                return Ok(None);
            }
            let (mut living, mut expired, mut expires_in) = (Vec::new(), Vec::new(), None);
            let mut any_missing = false;
            let mut liveness = LivenessCheck::now(&self.folder);
            for entry in entries {
                match liveness.of(entry)? {
                    Liveness::Alive(remaining) => {
                        living.push(entry.instance.clone());
                        expires_in = remaining.into_iter().chain(expires_in).min();
                    }
                    Liveness::Expired => {
                        expired.push(entry.instance.id().to_owned());
                        any_missing = true;
                    }
                    Liveness::Dead => any_missing = true,
                }
            }
            if !any_missing || without_writers.is_some() || list.is_current(&self.folder)? {
                living.sort_by(|a, b| a.id().cmp(b.id()));
                let mut entries = entries.to_vec();
                let lost = self.lost(known, &entries)?;
                let is_list_missing = list.is_missing();
                let is_faulty = is_list_missing || !lost.is_empty();
                expired.extend(lost.iter().map(|entry| entry.instance.id().to_owned()));
                entries.extend(lost);
                return Ok(Some(ServiceState {
                    living,
                    expired,
                    entries,
                    is_list_missing,
                    is_faulty,
                    expires_in,
                }));
            }
            lookups += 1;
            if lookups == UNLOCKED_LOOKUPS {
                let lock = ticket_lock::wait(&self.folder, Mode::Shared, self.lock_timeout)?;
                without_writers = Some(lock);
            }
        }
    }

    /// The `known` entries that are no longer listed although their leases are held. A provider
    /// that
    /// leaves, or an administrator who removes it, frees the lease first.
    fn lost(
        &self,
        known: &[Arc<ListEntry>],
        listed: &[Arc<ListEntry>],
    ) -> Result<Vec<Arc<ListEntry>>, RegistryError> {
        let ids: HashSet<_> = listed.iter().map(|entry| entry.instance.id()).collect();
        let mut lost = Vec::new();
        for entry in known.iter().filter(|entry| !ids.contains(entry.instance.id())) {
            if lease::is_held(&self.folder, &entry.lease)? {
                lost.push(Arc::clone(entry));
            }
        }
        Ok(lost)
    }
}

fn is_same(one: &[Arc<ListEntry>], two: &[Arc<ListEntry>]) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| Arc::ptr_eq(one, two))
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
