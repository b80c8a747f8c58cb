//! The lists of a service, whenever it may have changed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::format::ListEntry;
use super::lookup::ServiceState;
use super::store::Store;
use super::watcher::{FolderWatcher, WatchEvents};
use crate::back_end::{Feed, Update};
use crate::{BoxFuture, Instance, RegistryError};

/// How long after its possible expiration a lease is checked.
const DELAY: Duration = Duration::from_millis(10);

/// Follows one service.
pub(super) struct FileFeed {
    store: Arc<Store>,
    service: String,
    events: broadcast::Receiver<WatchEvents>,
    /// Sends the events.
    _watcher: Arc<FolderWatcher>,
    check: Check,
    /// The entries of the service at the last check.
    entries: Vec<Arc<ListEntry>>,
    /// When the first of them may expire.
    expires: Option<Instant>,
    /// The last update; `None` before the first one.
    last: Option<Vec<Instance>>,
    /// The ids that the last update reported as expired.
    expired: HashSet<String>,
}

/// Whether the service must be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Check {
    No,
    /// Only if its entries in the list have changed.
    IfListChanged,
    Yes,
}

impl FileFeed {
    pub(super) fn new(store: Arc<Store>, service: String, watcher: Arc<FolderWatcher>) -> Self {
        let events = watcher.subscribe();
        let (entries, expires, last, expired) = Default::default();
        Self {
            store,
            service,
            events,
            _watcher: watcher,
            check: Check::Yes,
            entries,
            expires,
            last,
            expired,
        }
    }

    async fn check(&mut self) -> Result<Option<Update>, RegistryError> {
        let only_if_changed = self.check == Check::IfListChanged;
        let known = self.entries.clone();
        let state = self.store.state_of(&self.service, known, only_if_changed).await?;
        self.check = Check::No;
        Ok(state.and_then(|state| self.update(state)))
    }

    /// The update for a state; `None` if nothing has changed.
    fn update(&mut self, state: ServiceState) -> Option<Update> {
        let ServiceState { living, expired, entries, is_list_missing, is_faulty, expires_in } =
            state;
        self.entries = entries;
        self.expires = expires_in.and_then(|time| Instant::now().checked_add(time + DELAY));
        let expired: HashSet<_> = expired.into_iter().collect();
        let last = self.last.as_deref().unwrap_or_default();
        let known = last.iter().map(Instance::id).chain(self.expired.iter().map(String::as_str));
        let alive: HashSet<_> = living.iter().map(Instance::id).collect();
        let departed: Vec<_> = known
            .filter(|id| !alive.contains(id) && !expired.contains(*id))
            .filter(|_| !is_list_missing)
            .map(str::to_owned)
            .collect();
        let is_new = self.last.as_ref() != Some(&living) || !departed.is_empty();
        self.expired = expired;
        self.last = Some(living.clone());
        is_new.then_some(Update { instances: living, departed, after_fault: is_faulty })
    }

    /// Notes what may have changed.
    fn note(&mut self, events: Result<WatchEvents, RecvError>) -> Result<(), RegistryError> {
        let check = match events {
            Ok(events) if events.all || self.names_any(&events.process_leases) => Check::Yes,
            Ok(events) if events.list => Check::IfListChanged,
            Ok(_) => Check::No,
            Err(RecvError::Lagged(_)) => Check::Yes,
            Err(RecvError::Closed) => {
                return Err(RegistryError::unavailable("the registry is not watched any more")
                    .with_registry(self.store.folder().uri()));
            }
        };
        self.check = self.check.max(check);
        Ok(())
    }

    fn names_any(&self, process_leases: &HashSet<String>) -> bool {
        let of = |entry: &Arc<ListEntry>| {
            entry.process_lease.as_ref().is_some_and(|it| process_leases.contains(&it.name))
        };
        !process_leases.is_empty() && self.entries.iter().any(of)
    }
}

impl Feed for FileFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(async move {
            loop {
                if self.check != Check::No
                    && let Some(update) = self.check().await?
                {
                    return Ok(update);
                }
                let expires = self.expires;
                tokio::select! {
                    events = self.events.recv() => self.note(events)?,
                    () = sleep_until(expires.unwrap_or_else(Instant::now)), if expires.is_some() => {
                        self.check = Check::Yes;
                    }
                }
            }
        })
    }
}
