use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep, timeout_at};

use super::commit::{self, Change, Reply};
use super::folder::Folder;
use super::format::Entry;
use super::lease;
use super::list::List;
use super::lock::{self, Mode};
use super::look::{Life, Look};
use super::site::Site;
use super::turn::{self, Outcome, Turn};
use crate::private_files::Access;
use crate::{Instance, RegistryError};

/// How long a thread of the blocking pool waits for a turn that is near.
const ATTEMPT: Duration = Duration::from_millis(10);
/// How often a lookup is repeated after concurrent writes before it locks out writers.
const FREE_LOOKS: usize = 16;

/// What one connection to a folder does with it. The methods that are not `async` block.
pub(super) struct Store {
    folder: Arc<Folder>,
    lock_timeout: Duration,
    site: Arc<Site>,
    /// The one in which it was connected to, to clean up in.
    runtime: Handle,
}

/// What a look at one service has found.
pub(super) struct Seen {
    /// Ordered by id.
    pub(super) living: Vec<Instance>,
    /// The ids of those that have lapsed, or whose lines were lost although nobody has ended them.
    pub(super) lapsed: Vec<String>,
    /// All entries, whatever has become of them.
    pub(super) entries: Vec<Arc<Entry>>,
    /// The list was deleted.
    pub(super) is_list_missing: bool,
    /// Lines were lost.
    pub(super) is_faulty: bool,
    /// The first of the living may lapse after this time.
    pub(super) lapses_in: Option<Duration>,
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
            Ok(Self { site: Site::at(folder.root()), folder, lock_timeout, runtime })
        })
        .await
    }

    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The list as it is now.
    pub(super) fn list(&self) -> Result<Arc<List>, RegistryError> {
        self.site.list(&self.folder)
    }

    /// The living instances of one service, ordered by id.
    pub(super) async fn lookup(
        self: &Arc<Self>,
        service: &str,
    ) -> Result<Vec<Instance>, RegistryError> {
        let service = service.to_owned();
        let seen = self.read(move |store| store.look(&service, &[], false)).await?;
        Ok(seen.map(|seen| seen.living).unwrap_or_default())
    }

    /// Looks again at one service, whose entries were the `known` ones. If they still are, and
    /// `only_if_changed`, there is nothing to see.
    pub(super) async fn see(
        self: &Arc<Self>,
        service: &str,
        known: Vec<Arc<Entry>>,
        only_if_changed: bool,
    ) -> Result<Option<Seen>, RegistryError> {
        let service = service.to_owned();
        self.read(move |store| store.look(&service, &known, only_if_changed)).await
    }

    /// The names of all services that have a living instance.
    pub(super) async fn services(self: &Arc<Self>) -> Result<Vec<String>, RegistryError> {
        self.read(|store| {
            let list = store.list()?;
            let mut names = Vec::new();
            for (name, entries) in list.intact(&store.folder)?.services() {
                // Most are found by their first entry. For the others it must not be missed who has
                // just taken over.
                let living = match entries.first() {
                    Some(entry) => Look::now(&store.folder).life(entry)?.is_alive(),
                    None => false,
                };
                if living
                    || store.look(name, &[], false)?.is_some_and(|seen| !seen.living.is_empty())
                {
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
        let _turn = self.site.readers.acquire().await;
        let store = Arc::clone(self);
        blocking(move || job(&store)).await
    }

    /// Changes the list, together with what others want to change.
    ///
    /// Waiting takes no thread, since the holder of the registry lock may be stopped for long. Once
    /// it is being written, a change is completed even if the future is dropped; what it has
    /// registered is dropped then.
    pub(super) async fn commit<T>(
        self: &Arc<Self>,
        change: impl FnOnce(Reply<T>) -> Change,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + self.lock_timeout;
        let (reply, mut outcome) = oneshot::channel();
        let number = self.site.queue.push(self, change(reply));
        let led = tokio::select! {
            biased;
            outcome = &mut outcome => return known(outcome),
            turn = timeout_at(deadline, self.site.writers.lock()) => match turn {
                Ok(_turn) => loop {
                    match outcome.try_recv() {
                        Ok(outcome) => return outcome,
                        Err(TryRecvError::Closed) => return Err(cut_off()),
                        Err(TryRecvError::Empty) => {}
                    }
                    if let Err(error) = self.write_waiting(deadline).await {
                        break error;
                    }
                },
                Err(_) => lock::timed_out(&self.folder, self.lock_timeout),
            },
        };
        if self.site.queue.take_back(number) {
            return Err(led);
        }
        // Somebody is writing it right now.
        known(outcome.await)
    }

    /// Takes the registry lock, in turn with other processes, and writes the waiting changes.
    async fn write_waiting(self: &Arc<Self>, deadline: Instant) -> Result<(), RegistryError> {
        let mut turn = Turn::new(Mode::Exclusive);
        loop {
            let store = Arc::clone(self);
            let attempt = move || match turn.attempt_for(&store.folder, ATTEMPT)? {
                Outcome::Taken(_held) => {
                    commit::write_waiting(&store);
                    Ok(ControlFlow::Break(()))
                }
                Outcome::Later(pause) => Ok(ControlFlow::Continue((turn, pause))),
            };
            let pause = match blocking(attempt).await? {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue((waiting, pause)) => {
                    turn = waiting;
                    pause
                }
            };
            if Instant::now() + pause > deadline {
                return Err(lock::timed_out(&self.folder, self.lock_timeout));
            }
            sleep(pause).await;
        }
    }

    /// Who of a service is alive.
    ///
    /// No lock is needed to read a list that is only ever replaced as a whole, so a look never
    /// waits for a writer, not even for one that is stopped. One thing must not happen: that the
    /// list is read, then a new provider takes over from an old one, and then the old one is found
    /// dead; the answer would be "nobody" although somebody was there at any moment. So when one
    /// is found dead and the list has changed since it was read, the look is repeated.
    fn look(
        &self,
        service: &str,
        known: &[Arc<Entry>],
        only_if_changed: bool,
    ) -> Result<Option<Seen>, RegistryError> {
        let mut looks = 0;
        let mut without_writers = None;
        loop {
            let list = self.list()?;
            let entries = list.intact(&self.folder)?.of(service);
            if only_if_changed && is_same(known, entries) {
                return Ok(None);
            }
            let (mut living, mut lapsed, mut lapses_in) = (Vec::new(), Vec::new(), None);
            let mut any_missing = false;
            let mut look = Look::now(&self.folder);
            for entry in entries {
                match look.life(entry)? {
                    Life::Alive(left) => {
                        living.push(entry.instance.clone());
                        lapses_in = left.into_iter().chain(lapses_in).min();
                    }
                    Life::Lapsed => {
                        lapsed.push(entry.instance.id().to_owned());
                        any_missing = true;
                    }
                    Life::Dead => any_missing = true,
                }
            }
            if !any_missing || without_writers.is_some() || list.is_current(&self.folder)? {
                living.sort_by(|a, b| a.id().cmp(b.id()));
                let mut entries = entries.to_vec();
                let lost_lines = self.lost_lines(known, &entries)?;
                let is_list_missing = list.is_missing();
                let is_faulty = is_list_missing || !lost_lines.is_empty();
                for lost in lost_lines {
                    lapsed.push(lost.instance.id().to_owned());
                    entries.push(lost);
                }
                return Ok(Some(Seen {
                    living,
                    lapsed,
                    entries,
                    is_list_missing,
                    is_faulty,
                    lapses_in,
                }));
            }
            looks += 1;
            if looks == FREE_LOOKS {
                without_writers = Some(turn::wait(&self.folder, Mode::Shared, self.lock_timeout)?);
            }
        }
    }

    /// Those of the `known` entries that are not there any more although their leases are held. Who
    /// leaves frees the lease first, and so does an administrator.
    fn lost_lines(
        &self,
        known: &[Arc<Entry>],
        there: &[Arc<Entry>],
    ) -> Result<Vec<Arc<Entry>>, RegistryError> {
        let ids: HashSet<_> = there.iter().map(|entry| entry.instance.id()).collect();
        let mut lost = Vec::new();
        for entry in known.iter().filter(|entry| !ids.contains(entry.instance.id())) {
            if lease::is_held(&self.folder, &entry.lease)? {
                lost.push(Arc::clone(entry));
            }
        }
        Ok(lost)
    }
}

fn is_same(one: &[Arc<Entry>], two: &[Arc<Entry>]) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| Arc::ptr_eq(one, two))
}

fn known<T>(outcome: Result<Result<T, RegistryError>, RecvError>) -> Result<T, RegistryError> {
    outcome.unwrap_or_else(|_| Err(cut_off()))
}

fn cut_off() -> RegistryError {
    RegistryError::unavailable("the work on the registry was cut off")
}

/// Runs `job` where blocking is allowed.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    runtime()?.spawn_blocking(job).await.unwrap_or_else(|error| {
        Err(RegistryError::unavailable(format!("the work on the registry was cut off: {error}"))
            .with_source(error))
    })
}

fn runtime() -> Result<Handle, RegistryError> {
    Handle::try_current().map_err(|error| {
        RegistryError::unavailable("a file: registry needs a tokio runtime").with_source(error)
    })
}
