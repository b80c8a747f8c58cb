use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use super::folder::Folder;
use super::format::Entry;
use super::lease::{self, FileLease, LeaseFile};
use super::list::{self, List};
use super::lock::{self, Mode, Pause};
use super::turns::Turns;
use crate::{Instance, Lease, RegistryError};

/// How often a look that met a concurrent write is repeated before it keeps writers out.
const FREE_LOOKS: usize = 16;

/// What one connection to a folder does with it. The methods that are not `async` block.
pub(super) struct Store {
    folder: Folder,
    lock_timeout: Duration,
    turns: Arc<Turns>,
    /// The list as it was last read, so that it is read again only when it has changed.
    cache: Mutex<Option<Arc<List>>>,
}

impl Store {
    pub(super) async fn open(
        folder: Folder,
        lock_timeout: Duration,
    ) -> Result<Self, RegistryError> {
        blocking(move || {
            let root = folder.root();
            let root = fs::create_dir_all(root)
                .and_then(|()| fs::canonicalize(root))
                .map_err(|error| folder.error("create the folder", root, error))?;
            Ok(Self { turns: Turns::at(&root), folder, lock_timeout, cache: Mutex::default() })
        })
        .await
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The living instances of one service.
    pub(super) async fn lookup(
        self: &Arc<Self>,
        service: &str,
    ) -> Result<Vec<Instance>, RegistryError> {
        let service = service.to_owned();
        self.read(move |store| store.living(|instance| instance.service() == service)).await
    }

    /// Runs `job` without any lock.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let _turn = self.turns.readers.acquire().await;
        let store = Arc::clone(self);
        blocking(move || job(&store)).await
    }

    /// Runs `job` under the exclusive registry lock.
    ///
    /// Waiting takes no thread, since a holder may be stopped for long. Once it has begun, the job
    /// runs to its end even if the future is dropped; a lease it returns is dropped then.
    pub(super) async fn write<T: Send + 'static, F>(
        self: &Arc<Self>,
        mut job: F,
    ) -> Result<T, RegistryError>
    where
        F: FnOnce(&Arc<Self>) -> Result<T, RegistryError> + Send + 'static,
    {
        let deadline = Instant::now() + self.lock_timeout;
        let late = || lock::timed_out(&self.folder, self.lock_timeout);
        let turn = timeout_at(deadline, self.turns.writers.lock()).await;
        let _turn = turn.map_err(|_| late())?;
        let mut pause = Pause::default();
        loop {
            let store = Arc::clone(self);
            let attempt = move || match lock::attempt(&store.folder, Mode::Exclusive)? {
                Some(_locked) => job(&store).map(ControlFlow::Break),
                None => Ok(ControlFlow::Continue(job)),
            };
            match blocking(attempt).await? {
                ControlFlow::Break(done) => return Ok(done),
                ControlFlow::Continue(again) => job = again,
            }
            let pause = pause.next();
            if Instant::now() + pause > deadline {
                return Err(late());
            }
            sleep(pause).await;
        }
    }

    /// Like [`write`](Self::write) for those who can't await, out of turn.
    pub(super) fn write_within<T>(
        self: &Arc<Self>,
        patience: Duration,
        job: impl FnOnce(&Arc<Self>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let _locked = lock::wait(&self.folder, Mode::Exclusive, patience)?;
        job(self)
    }

    /// The living among the `wanted` instances, ordered by id.
    ///
    /// No lock is needed to read a list that is only ever replaced as a whole, so a look never
    /// waits for a writer, not even for one that is stopped. One thing must not happen: that the
    /// list is read, then a new provider takes over from an old one, and then the old one is found
    /// dead; the answer would be "nobody" although somebody was there at any moment. So when one
    /// is found dead and the list has changed since it was read, the look is repeated.
    pub(super) fn living(
        &self,
        wanted: impl Fn(&Instance) -> bool,
    ) -> Result<Vec<Instance>, RegistryError> {
        let mut looks = 0;
        let mut without_writers = None;
        loop {
            let list = self.list()?;
            let mut living = Vec::new();
            let mut any_dead = false;
            for entry in list.intact(&self.folder)?.iter().filter(|e| wanted(&e.instance)) {
                match lease::is_held(&self.folder, &entry.lease)? {
                    true => living.push(entry.instance.clone()),
                    false => any_dead = true,
                }
            }
            if !any_dead || without_writers.is_some() || list.is_current(&self.folder)? {
                living
                    .sort_by(|a, b| a.id().cmp(b.id()).then_with(|| a.service().cmp(b.service())));
                return Ok(living);
            }
            looks += 1;
            if looks == FREE_LOOKS {
                without_writers = Some(lock::wait(&self.folder, Mode::Shared, self.lock_timeout)?);
            }
        }
    }

    /// Registers `instance`; a job for [`write`](Self::write). Repairs a damaged list.
    pub(super) fn add(self: &Arc<Self>, instance: Instance) -> Result<Lease, RegistryError> {
        self.folder.create()?;
        let list = self.list()?;
        let living = self.held(list.readable())?;
        let is_same = |entry: &Entry| {
            entry.instance.id() == instance.id() && entry.instance.service() == instance.service()
        };
        if living.iter().any(|entry| is_same(entry)) {
            return Err(RegistryError::already_exists(format!(
                "the instance {:?} of {:?} is registered and alive",
                instance.id(),
                instance.service()
            ))
            .with_registry(self.folder.uri())
            .with_hint("give each provider its own id, or end the other one first"));
        }
        let dead = list.readable().iter().find(|entry| is_same(entry));
        let epoch = dead.map_or(0, |entry| entry.instance.epoch().saturating_add(1));
        let epoch = epoch.max(instance.epoch());
        let instance = instance.with_epoch(epoch);

        let file = LeaseFile::create(&self.folder, instance.id())?;
        let entry = Entry::new(instance.clone(), file.name().to_owned()).map_err(|error| {
            RegistryError::invalid_instance(format!("the instance can't be written: {error}"))
                .with_registry(self.folder.uri())
                .with_source(error)
        })?;
        list.set_aside(&self.folder)?;
        self.replace(living.into_iter().chain([&entry]).collect())?;
        Ok(Lease::new(instance, FileLease::new(Arc::clone(self), file)))
    }

    /// Removes the dead and those for which `is_it` holds, and says whether one of the latter was
    /// alive; a job for [`write`](Self::write). Leaves a damaged list alone.
    pub(super) fn remove(&self, is_it: impl Fn(&Instance) -> bool) -> Result<bool, RegistryError> {
        let list = self.list()?;
        let entries = list.intact(&self.folder)?;
        let living = self.held(entries)?;
        let found = living.iter().any(|entry| is_it(&entry.instance));
        let kept: Vec<_> = living.into_iter().filter(|entry| !is_it(&entry.instance)).collect();
        if kept.len() < entries.len() {
            self.replace(kept)?;
        }
        Ok(found)
    }

    fn held<'a>(&self, entries: &'a [Entry]) -> Result<Vec<&'a Entry>, RegistryError> {
        let mut held = Vec::with_capacity(entries.len());
        for entry in entries {
            if lease::is_held(&self.folder, &entry.lease)? {
                held.push(entry);
            }
        }
        Ok(held)
    }

    fn replace(&self, entries: Vec<&Entry>) -> Result<(), RegistryError> {
        list::replace(&self.folder, entries.iter().copied())?;
        let named: HashSet<_> = entries.iter().map(|entry| entry.lease.as_str()).collect();
        lease::sweep(&self.folder, &named);
        Ok(())
    }

    /// The list as it is now.
    fn list(&self) -> Result<Arc<List>, RegistryError> {
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(list) = cached
            && list.is_current(&self.folder)?
        {
            return Ok(list);
        }
        let list = Arc::new(List::read(&self.folder)?);
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&list));
        Ok(list)
    }
}

/// Runs `job` where blocking is allowed.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    let runtime = Handle::try_current().map_err(|error| {
        RegistryError::unavailable("a file: registry needs a tokio runtime").with_source(error)
    })?;
    runtime.spawn_blocking(job).await.unwrap_or_else(|error| {
        Err(RegistryError::unavailable(format!("the work on the registry was cut off: {error}"))
            .with_source(error))
    })
}
