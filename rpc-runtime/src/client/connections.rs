//! All connections of a client, and [`StateChanges`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::connection_info::{ConnectionInfo, KnownLink};
use super::pick::Pick;
use super::ready_links::ReadyLinks;
use crate::error::RpcError;
use crate::observe::{DrainOutcome, Observer};

/// Observes the connections of a [`Client`](crate::Client); created by
/// [`Client::state_changes`](crate::Client::state_changes). Does not keep them open.
pub struct StateChanges {
    all: Weak<Connections>,
    version: watch::Receiver<()>,
}

impl StateChanges {
    /// Waits for a change since the last call and returns all connections; the first call returns at
    /// once. Changes in quick succession are coalesced into the latest state. Returns `None` when all
    /// clones of the client were dropped and their connections have ended. [Closing] the client does
    /// not end the observation while a clone exists; all connections are then `Closed`.
    ///
    /// [Closing]: crate::Client::close
    ///
    /// # Cancel safety
    ///
    /// A dropped future has consumed nothing; the next call returns what it would have returned.
    pub async fn changed(&mut self) -> Option<Vec<ConnectionInfo>> {
        self.version.changed().await.ok()?;
        Some(self.all.upgrade()?.infos())
    }
}

impl fmt::Debug for StateChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.all.upgrade().map(|all| all.infos());
        f.debug_struct("StateChanges").field("now", &now).finish()
    }
}

/// All links of a client, also those that are draining at addresses that are no longer in use.
pub(crate) struct Connections {
    links: Mutex<Links>,
    ready: ReadyLinks,
    /// Changes whenever a link or the list of providers does.
    version: watch::Sender<()>,
}

#[derive(Default)]
struct Links {
    /// In the order in which they were made.
    known: Vec<Weak<dyn KnownLink>>,
    /// The number of links at which closed ones are next removed.
    sweep_at: usize,
    closed: bool,
}

/// Fewer links are not worth a sweep.
const MIN_SWEEP: usize = 64;

impl Connections {
    pub(super) fn new() -> Arc<Self> {
        let (links, ready) = (Mutex::default(), ReadyLinks::default());
        Arc::new(Self { links, ready, version: watch::Sender::new(()) })
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// The client was closed, and so is the link to be.
    pub(super) fn add(&self, link: &Arc<dyn KnownLink>) -> Result<(), RpcError> {
        let mut links = self.lock();
        if links.known.len() >= links.sweep_at.max(MIN_SWEEP) {
            links.known.retain(|known| known.strong_count() > 0);
            // The next sweep is due when the number has doubled, so a sweep costs constant time per
            // link.
            links.sweep_at = links.known.len().saturating_mul(2);
        }
        if links.known.is_empty() {
            // Most clients have one.
            links.known.reserve_exact(1);
        }
        links.known.push(Arc::downgrade(link));
        if links.closed { Err(closed()) } else { Ok(()) }
    }

    /// The connected links.
    pub(super) fn ready(&self) -> &ReadyLinks {
        &self.ready
    }

    /// Any connection of the client that accepts calls, a different one each time.
    pub(crate) fn any_ready(&self) -> Option<Pick> {
        self.ready.pick()
    }

    fn all(&self) -> Vec<Arc<dyn KnownLink>> {
        self.lock().known.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn infos(&self) -> Vec<ConnectionInfo> {
        self.all().iter().map(|link| link.info()).collect()
    }

    /// One of them has changed, or which ones there are.
    pub(crate) fn changed(&self) {
        self.version.send_replace(());
    }

    pub(super) fn changes(self: &Arc<Self>) -> StateChanges {
        let mut version = self.version.subscribe();
        version.mark_changed();
        StateChanges { all: Arc::downgrade(self), version }
    }

    /// A mark of what is so now, for [`change_after`](Self::change_after).
    pub(super) fn mark(&self) -> watch::Receiver<()> {
        self.version.subscribe()
    }

    /// Waits until something has changed since the mark, or an attempt is due. Cancel safe.
    pub(super) async fn change_after(&self, mut mark: watch::Receiver<()>) {
        // It ends with `self`.
        let changed = async { mark.changed().await.unwrap_or_default() };
        match self.all().iter().filter_map(|link| link.until()).min() {
            Some(due) => tokio::time::timeout_at(due.into(), changed).await.unwrap_or_default(),
            None => changed.await,
        }
    }

    /// Why there are no more calls, once there are none.
    pub(super) fn why_closed(&self) -> Option<RpcError> {
        self.lock().closed.then(closed)
    }

    /// No new calls; those under way get so long, and then fail. The first time only.
    pub(super) fn close(self: &Arc<Self>, budget: Duration, runtime: &Handle, observer: Observer) {
        if std::mem::replace(&mut self.lock().closed, true) {
            return;
        }
        for link in self.all() {
            link.close(closed());
        }
        self.changed();
        let all = Arc::clone(self);
        runtime.spawn(async move {
            if tokio::time::timeout(budget, all.ended()).await.is_ok() {
                observer.drained(DrainOutcome::Complete);
            } else {
                observer.drained(DrainOutcome::CutOff);
                let why = "the client was closed before the call was done";
                let channels: Vec<_> = all.all().iter().flat_map(|link| link.channels()).collect();
                tracing::warn!(
                    connections = channels.len(),
                    "the drain timeout of a client passed"
                );
                channels.iter().for_each(|channel| channel.close(RpcError::unavailable(why)));
            }
        });
    }

    /// Waits until no connection is left of a client that was closed. Cancel safe.
    pub(super) async fn ended(&self) {
        let mut version = self.version.subscribe();
        while self.all().iter().any(|link| !link.channels().is_empty()) {
            if version.changed().await.is_err() {
                return;
            }
        }
    }
}

fn closed() -> RpcError {
    RpcError::unavailable("the client was closed").unexecuted()
}
