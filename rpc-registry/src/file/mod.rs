//! The `file:` back end: one folder, shared by the processes of one machine.
//!
//! | file in the folder | what for | see |
//! | --- | --- | --- |
//! | `registry.jsonl` | who is registered; a header, then one instance per line | [`mod@format`], [`list`] |
//! | `registry.lock` | held by whoever writes; never removed | [`lock`] |
//! | `leases/*.lock` | each held by one provider for as long as it lives | [`lease`] |
//! | `beats/*` | each renewed by one process for as long as it runs | [`beat`] |
//! | `signs/*` | what watchers watch | [`signs`] |
//! | `turns/*` | each held by one process that waits for the registry lock | [`turn`] |
//!
//! `registry.jsonl` is only ever replaced as a whole, so it can be read without a lock. It says
//! who registered. Who of them is dead is said by the kernel, which releases a provider's lease
//! lock the moment its process ends, however it ends. Who hangs is said by its beat. A line whose
//! lease is free counts for nothing and goes with a later write.
//!
//! Writing: [`commit`] changes the list, [`session`] is a registration in it, [`sweep`] cleans up.
//! Reading: [`store`] looks up a service, [`look`] checks liveness, [`feed`] follows. [`site`] is
//! shared by the tasks of a process. [`location`] finds the folder, and [`folder`] opens its files
//! by the rules of [`private_files`](crate::private_files).

mod beat;
mod clock;
mod commit;
mod feed;
mod folder;
mod format;
mod lease;
mod list;
mod location;
mod lock;
mod look;
mod session;
mod signs;
mod site;
mod stamp;
mod store;
mod sweep;
mod turn;

use std::sync::Arc;
use std::time::Duration;

use crate::back_end::{Announcement, BackEnd, Claim, Feed};
use crate::private_files::Access;
use crate::{BoxFuture, Instance, RegistryError, RegistryUri, Resilient, ResilientSettings};
use commit::Change;
use feed::FileFeed;
#[cfg(feature = "__fuzz")]
pub use format::rewritten_list;
use signs::Lookout;
use store::Store;

/// How long a write waits for the registry lock. A healthy holder needs milliseconds; one that
/// needs seconds is stopped, and waiting longer would not help.
const LOCK_TIMEOUT_MS: u64 = 5_000;
/// How often the list's time is looked at, for the sake of those who give no sign.
const WATCH_INTERVAL_MS: u64 = 1_000;
/// How long a provider counts that does not renew its registrations.
const TTL_MS: u64 = 10_000;

/// Connects to the registry that the URI names. Makes the folder if it is missing.
pub(crate) async fn connect(uri: &RegistryUri) -> Result<Resilient<FileBackEnd>, RegistryError> {
    uri.expect_params(&[
        "lock_timeout_ms",
        "watch_interval_ms",
        "ttl_ms",
        "shared",
        "protect_percent",
        "protect_ms",
        "protect_max",
    ])?;
    let milliseconds =
        |name, default, range| uri.number(name, default, range).map(Duration::from_millis);
    let lock_timeout = milliseconds("lock_timeout_ms", LOCK_TIMEOUT_MS, 1..=600_000)?;
    let watch_interval = milliseconds("watch_interval_ms", WATCH_INTERVAL_MS, 10..=60_000)?;
    let ttl = milliseconds("ttl_ms", TTL_MS, 1_000..=600_000)?;
    // The list is on this machine: there is nothing to remember it for.
    let settings = ResilientSettings { cache: None, ..ResilientSettings::from_uri(uri)? };
    let (path, access) = (location::folder(uri)?, access(uri)?);
    let store = Store::open(path, uri.as_str().to_owned(), access, lock_timeout).await?;
    Resilient::new(FileBackEnd { store: Arc::new(store), watch_interval, ttl }, settings).await
}

/// The registry in one folder.
pub(crate) struct FileBackEnd {
    store: Arc<Store>,
    watch_interval: Duration,
    ttl: Duration,
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
        Box::pin(async move {
            let ttl = self.ttl;
            self.store.commit(|reply| Change::Add { instance, claim, ttl, reply }).await
        })
    }

    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(self.store.lookup(service))
    }

    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(async move {
            let (site, folder) = (self.store.site(), self.store.folder());
            let lookout = Lookout::at(site, folder, self.watch_interval)?;
            let feed = FileFeed::new(Arc::clone(&self.store), service.to_owned(), lookout);
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

/// Who may use the folder.
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
