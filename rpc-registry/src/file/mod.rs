//! The `file:` back end: one folder, shared by the processes of one machine.
//!
//! | file in the folder | what for | see |
//! | --- | --- | --- |
//! | `registry.jsonl` | who is registered; a header, then one instance per line | [`mod@format`], [`list`] |
//! | `registry.lock` | held by whoever writes; never removed | [`lock`] |
//! | `leases/*.lock` | each held by one provider for as long as it lives | [`lease`] |
//!
//! `registry.jsonl` is only ever replaced as a whole, so it can be read without a lock. It says
//! who registered; who of them is alive is said by the kernel, which releases a provider's lease
//! lock the moment its process ends, however it ends. A line whose lease is free counts for
//! nothing and goes with the next write.

mod folder;
mod format;
mod lease;
mod list;
mod lock;
mod stamp;
mod store;
mod turns;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::instance::check_service;
use crate::{BoxFuture, Instance, Lease, Registry, RegistryError, RegistryUri, Snapshot, Watch};
use folder::Folder;
use store::Store;

/// How long a write waits for the registry lock. A healthy holder needs milliseconds; one that
/// needs seconds is stopped, and waiting longer would not help.
const LOCK_TIMEOUT_MS: u64 = 5_000;
/// How often a watch looks. A look is a few system calls, so this could be shorter; it is well
/// below what a person notices.
const WATCH_INTERVAL_MS: u64 = 200;

/// The registry in one folder.
pub(crate) struct FileRegistry {
    store: Arc<Store>,
    watch_interval: Duration,
}

impl FileRegistry {
    /// Makes the folder if it is missing.
    pub(crate) async fn connect(uri: &RegistryUri) -> Result<Self, RegistryError> {
        uri.expect_params(&["lock_timeout_ms", "watch_interval_ms"])?;
        let lock_timeout = uri.number("lock_timeout_ms", LOCK_TIMEOUT_MS, 1..=600_000)?;
        let watch_interval = uri.number("watch_interval_ms", WATCH_INTERVAL_MS, 10..=60_000)?;
        let folder = Folder::new(folder_path(uri)?, uri.as_str());
        let store = Store::open(folder, Duration::from_millis(lock_timeout)).await?;
        Ok(Self { store: Arc::new(store), watch_interval: Duration::from_millis(watch_interval) })
    }

    fn check(&self, service: &str) -> Result<(), RegistryError> {
        check_service(service).map_err(|error| error.with_registry(self.uri()))
    }
}

impl Registry for FileRegistry {
    fn uri(&self) -> &str {
        self.store.folder().uri()
    }

    fn register<'a>(&'a self, instance: Instance) -> BoxFuture<'a, Result<Lease, RegistryError>> {
        Box::pin(async move {
            instance.validate().map_err(|error| error.with_registry(self.uri()))?;
            self.store.write(|store| store.add(instance)).await
        })
    }

    fn lookup<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Snapshot, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            self.store.lookup(service).await.map(Snapshot::of)
        })
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            watch::start(Arc::clone(&self.store), service.to_owned(), self.watch_interval).await
        })
    }

    fn unregister<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            let (service, id) = (service.to_owned(), instance_id.to_owned());
            let is_it = move |i: &Instance| i.service() == service && i.id() == id;
            if self.store.folder().is_gone() {
                return Ok(false);
            }
            self.store.write(move |store| store.remove(is_it)).await
        })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move {
            let living = self.store.read(|store| store.living(|_| true)).await?;
            let mut names: Vec<_> = living.iter().map(|i| i.service().to_owned()).collect();
            names.sort_unstable();
            names.dedup();
            Ok(names)
        })
    }
}

/// `file:///absolute`, `file:/absolute`, `file:relative`, `file:./relative`. A relative path is
/// made absolute now, so that a later change of the working directory does not matter.
fn folder_path(uri: &RegistryUri) -> Result<PathBuf, RegistryError> {
    if uri.user().is_some() {
        return Err(uri.wrong("a file: URI has no user"));
    }
    if let Some(host) = uri.authority()
        && host != "localhost"
    {
        return Err(uri.wrong(format!("it names the host {host:?}")).with_hint(format!(
            "write file:///{host}{path} for an absolute path, file:{host}{path} for a relative one",
            path = uri.path()
        )));
    }
    if uri.path().is_empty() {
        return Err(uri
            .wrong("it names no folder")
            .with_hint("write it like file:///tmp/rpc-demo"));
    }
    std::path::absolute(Path::new(uri.path())).map_err(|error| {
        uri.wrong(format!("its path can't be made absolute: {error}")).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: &str) -> Result<PathBuf, RegistryError> {
        folder_path(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn absolute_and_relative_folders_are_understood() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(path("file:///tmp/a%20b").unwrap(), Path::new("/tmp/a b"));
        assert_eq!(path("file://localhost/tmp/x").unwrap(), Path::new("/tmp/x"));
        assert_eq!(path("file:/tmp/x").unwrap(), Path::new("/tmp/x"));
        assert_eq!(path("file:dir").unwrap(), here.join("dir"));
        assert_eq!(path("file:./dir").unwrap(), here.join("dir"));
    }

    #[test]
    fn a_forgotten_slash_is_explained_instead_of_becoming_a_host() {
        let error = path("file://tmp/x").unwrap_err();
        assert!(error.is_invalid_uri());
        assert!(error.to_string().contains("file:///tmp/x"), "{error}");
        assert!(path("file:").unwrap_err().to_string().contains("names no folder"));
        assert!(path("file://me@/x").unwrap_err().is_invalid_uri());
    }
}
