//! [`Subscription`]: the state of a service that is watched.

use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Protection;
use super::protection::ExpiryProtection;
use crate::back_end::Update;
use crate::sync::{Mutex, MutexGuard};
use crate::{Instance, RegistryError, Snapshot, Source, Watch, WatchSender};

/// One for each service that is watched, however many watches there are.
pub(super) struct Subscription {
    known: Mutex<Known>,
    sender: WatchSender,
    /// Whether there is a first list, or why there is none.
    started: watch::Sender<Option<Result<(), RegistryError>>>,
}

/// The known list.
pub(super) struct Known {
    pub(super) protection: ExpiryProtection,
    /// When the registry was last available, during an outage.
    pub(super) away_since: Option<SystemTime>,
}

impl Subscription {
    pub(super) fn new(protection: Protection) -> Self {
        let protection = ExpiryProtection::new(protection);
        Self {
            known: Mutex::new(Known { protection, away_since: None }),
            sender: Watch::channel(Vec::new()).0,
            started: watch::channel(None).0,
        }
    }

    /// A watch, and whether its first list is there.
    pub(super) fn subscribe(&self) -> (Watch, watch::Receiver<Option<Result<(), RegistryError>>>) {
        (self.sender.subscribe(), self.started.subscribe())
    }

    /// Waits until there is no watch.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    pub(super) fn has_started(&self) -> bool {
        self.started.borrow().is_some()
    }

    /// There is no first list, and there will be none.
    pub(super) fn fail(&self, error: RegistryError) {
        self.started.send_replace(Some(Err(error)));
    }

    /// Sends the known list to all watches.
    pub(super) fn publish(&self) {
        let snapshot = {
            let known = self.known();
            let snapshot = known.protection.snapshot();
            match known.away_since {
                Some(as_of) => snapshot.with_source(Source::Cache { as_of }),
                None => snapshot,
            }
        };
        self.sender.publish(snapshot);
        self.started.send_if_modified(|started| started.replace(Ok(())).is_none());
    }

    /// The list that a lookup found, with the protected instances.
    pub(super) fn looked_up(&self, instances: Vec<Instance>) -> Snapshot {
        let known = self.known();
        if known.away_since.is_none() {
            return known.protection.with_kept(instances);
        }
        // The registry is back, and the feed has not noticed it yet. The same rules apply to this
        // list as to the first list of the feed.
        let mut protection = known.protection.clone();
        let update = Update { instances, ..Update::default() };
        protection.apply(update, Instant::now().into_std());
        protection.snapshot()
    }

    /// The last known list; `None` before the first one.
    pub(super) fn last_known(&self) -> Option<Snapshot> {
        if !matches!(&*self.started.borrow(), Some(Ok(()))) {
            return None;
        }
        let known = self.known();
        let as_of = known.away_since.unwrap_or_else(SystemTime::now);
        Some(known.protection.snapshot().with_source(Source::Cache { as_of }))
    }
}
