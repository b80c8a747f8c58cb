//! The `file:` back end: one folder, shared by the processes of one machine.
//!
//! | file in the folder | purpose | see |
//! | --- | --- | --- |
//! | `registry.jsonl` | the list: a header, then one instance per line | [`mod@format`], [`list`] |
//! | `registry.lock` | held while a process writes; never removed | [`lock`] |
//! | `leases/*.lock` | each held by one provider as long as it lives | [`lease`] |
//! | `beats/*` | each renewed by one process as long as it runs | [`process_lease`] |
//! | `signs/*` | the change signals that watchers receive | [`signals`], [`watcher`] |
//! | `turns/*` | each held by one process that waits for the registry lock | [`ticket_lock`] |
//!
//! `registry.jsonl` is only ever replaced as a whole, so it is read without a lock. It contains all
//! registrations. The kernel shows which providers are dead: it releases the lease lock of a
//! provider as soon as its process ends. The process lease shows which processes hang. An entry
//! whose lease is free is ignored, and a later write removes it.
//!
//! Writing: [`changes`] has the changes that wait, [`commit`] writes them, [`session`] is a
//! registration, [`sweep`] cleans up. Reading: [`lookup`] reads a service, [`liveness`] checks which
//! registrations are alive, [`feed`] follows a service. [`store`] is a connection to the folder,
//! [`shared_folder`] the state that all tasks of a process share. [`location`] finds the folder, and
//! [`folder`] opens its files by the rules of [`private_files`](crate::private_files).

mod changes;
mod clock;
mod commit;
mod feed;
mod folder;
mod format;
mod lease;
mod list;
mod liveness;
mod location;
mod lock;
mod lookup;
mod process_lease;
mod session;
mod shared_folder;
mod signals;
mod stamp;
mod store;
mod sweep;
mod ticket_lock;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use crate::back_end::{Announcement, BackEnd, Claim, Feed};
use crate::private_files::Access;
use crate::{BoxFuture, Instance, RegistryError, RegistryUri, Resilient, ResilientSettings};
use changes::Change;
use feed::FileFeed;
#[cfg(feature = "__fuzz")]
pub use format::rewritten_list;
use store::Store;
use watcher::FolderWatcher;

/// How long a write waits for the registry lock. A healthy holder needs milliseconds; one that
/// needs seconds is stopped, and waiting longer would not help.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the time of the list is polled for changes that send no signal.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a registration that is not renewed stays alive.
const LEASE: Duration = Duration::from_secs(10);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Connects to the registry that the URI names. Makes the folder if it is missing.
pub(crate) async fn connect(uri: &RegistryUri) -> Result<Resilient<FileBackEnd>, RegistryError> {
    uri.expect_params(&[
        "lease",
        "lock_timeout",
        "poll_interval",
        "shared",
        "protect",
        "protect_percent",
        "protect_max",
    ])?;
    let lease = uri.duration("lease", LEASE, SECOND..=600 * SECOND)?;
    let lock_timeout = uri.duration("lock_timeout", LOCK_TIMEOUT, MILLISECOND..=600 * SECOND)?;
    let poll_interval =
        uri.duration("poll_interval", POLL_INTERVAL, 10 * MILLISECOND..=60 * SECOND)?;
    // The list is on this machine, so a cache of it is of no use.
    let settings = ResilientSettings { cache: None, ..ResilientSettings::from_uri(uri)? };
    let (path, access) = (location::folder(uri)?, access(uri)?);
    let store = Store::open(path, uri.as_str().to_owned(), access, lock_timeout).await?;
    Resilient::new(FileBackEnd { store: Arc::new(store), poll_interval, lease }, settings).await
}

/// The registry in one folder.
pub(crate) struct FileBackEnd {
    store: Arc<Store>,
    poll_interval: Duration,
    lease: Duration,
}

impl BackEnd for FileBackEnd {
    fn uri(&self) -> &str {
        self.store.folder().uri()
    }

    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>> {
        Box::pin(async move { session::announce(&self.store, instance, claim, self.lease).await })
    }

    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(self.store.lookup(service))
    }

    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(async move {
            let (shared, folder) = (self.store.shared(), self.store.folder());
            let (slot, lists) = (&shared.watcher, &shared.lists);
            let watcher = FolderWatcher::shared(slot, folder, lists, self.poll_interval)?;
            let feed = FileFeed::new(Arc::clone(&self.store), service.to_owned(), watcher);
            Ok(Box::new(feed) as _)
        })
    }

    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            if self.store.folder().is_gone() {
                return Ok(false);
            }
            let (service, id) = (service.to_owned(), instance_id.to_owned());
            self.store.commit(|reply| Change::Remove { service, id, reply }).await
        })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(self.store.services())
    }
}

/// The users that may use the folder.
fn access(uri: &RegistryUri) -> Result<Access, RegistryError> {
    match uri.param("shared") {
        None => Ok(Access::Owner),
        Some("group") if cfg!(unix) => Ok(Access::Group),
        Some("group") => Err(uri.wrong("groups share folders on Unix only")),
        Some(other) => Err(uri
            .wrong(format!("the parameter shared={other:?} is not known"))
            .with_hint("write shared=group, or leave it out")),
    }
}
