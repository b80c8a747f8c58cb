//! All connections of a client, and [`StateChanges`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

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
    /// Waits for a change since the last call and returns all connections; the first call returns
    /// at once. Changes in quick succession are coalesced into the latest state. Returns `None`
    /// when all clones of the client were dropped and their connections have ended. [Closing] the
    /// client does not end the observation while a clone exists; all connections are then `Closed`.
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

/// Distinguishes the links of a client: the address of one in memory.
pub(super) type LinkNumber = usize;

#[derive(Default)]
struct Links {
    /// In the order in which they were made.
    known: Vec<Weak<dyn KnownLink>>,
    /// The number of links at which closed ones are next removed.
    sweep_at: usize,
    /// `None` until the first pause.
    pauses: Option<Box<Pauses>>,
    closed: bool,
}

/// The links that wait for their next attempt to connect.
#[derive(Default)]
struct Pauses {
    ends: BTreeMap<LinkNumber, Instant>,
    in_order: BTreeSet<(Instant, LinkNumber)>,
}

impl Pauses {
    fn set(&mut self, number: LinkNumber, end: Option<Instant>) {
        let before = match end {
            Some(end) => self.ends.insert(number, end),
            None => self.ends.remove(&number),
        };
        if before != end {
            before.map(|before| self.in_order.remove(&(before, number)));
            self.in_order.extend(end.map(|end| (end, number)));
        }
    }

    /// The end of the first one.
    fn first(&self) -> Option<Instant> {
        self.in_order.first().map(|(end, _)| *end)
    }
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

    /// When the link's pause between two attempts ends; `None` if there is none.
    pub(super) fn note_pause(&self, number: LinkNumber, end: Option<Instant>) {
        let mut links = self.lock();
        if end.is_some() || links.pauses.is_some() {
            links.pauses.get_or_insert_default().set(number, end);
        }
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
        let first = self.lock().pauses.as_ref().and_then(|pauses| pauses.first());
        match first {
            Some(due) => tokio::time::timeout_at(due.into(), changed).await.unwrap_or_default(),
            None => changed.await,
        }
    }

    /// Why there are no more calls, once there are none.
    pub(super) fn why_closed(&self) -> Option<RpcError> {
        self.lock().closed.then(closed)
    }

    /// Closes all links: no new calls; calls in progress fail after `drain_timeout`. Only the first
    /// call has an effect.
    pub(super) fn close(
        self: &Arc<Self>,
        drain_timeout: Duration,
        runtime: &Handle,
        observer: Observer,
    ) {
        if std::mem::replace(&mut self.lock().closed, true) {
            return;
        }
        for link in self.all() {
            link.close(closed());
        }
        self.changed();
        let all = Arc::clone(self);
        runtime.spawn(async move {
            if tokio::time::timeout(drain_timeout, all.ended()).await.is_ok() {
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
    ///
    /// It waits for one link after the other, so a change costs a look at one of them.
    pub(super) async fn ended(&self) {
        let mut version = self.version.subscribe();
        let has_channels = |link: &Arc<dyn KnownLink>| !link.channels().is_empty();
        loop {
            let open: Vec<_> = self.all().into_iter().filter(has_channels).collect();
            if open.is_empty() {
                return;
            }
            for link in open {
                while has_channels(&link) {
                    if version.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn closed() -> RpcError {
    RpcError::unavailable("the client was closed").unexecuted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientBuilder;
    use crate::client::link::Link;
    use crate::connection::Channel;
    use crate::uri::Uri;

    #[tokio::test]
    async fn the_first_pause_to_end_is_known_until_its_link_is_closed() {
        let settings = ClientBuilder::default().endpoint_settings(None).unwrap();
        let link = |uri| Link::new(Uri::parse(uri).unwrap(), Arc::clone(&settings));
        let (one, other) = (link("memory:one"), link("memory:other"));
        let first = || settings.all.lock().pauses.as_ref()?.first();
        assert_eq!(first(), None);
        // Nobody listens there.
        one.connected().await.map(drop).unwrap_err();
        let until = first().unwrap();
        other.connected().await.map(drop).unwrap_err();
        assert!(first().unwrap() <= until, "each pause is of a random length");
        one.announce();
        assert!(first().is_some(), "the other still waits");
        other.close(closed(), Channel::drain);
        assert_eq!(first(), None);
    }

    #[test]
    fn a_pause_replaces_the_one_before_it() {
        let mut pauses = Pauses::default();
        let now = Instant::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        let ends = [(1, at(5)), (2, at(3)), (2, at(3)), (2, at(7)), (1, at(9)), (3, None)];
        let first = ends.map(|(number, end)| {
            pauses.set(number, end);
            pauses.first()
        });
        assert_eq!(first, [at(5), at(3), at(3), at(5), at(7), at(7)]);
        pauses.set(1, None);
        pauses.set(2, None);
        assert!(pauses.ends.is_empty() && pauses.in_order.is_empty());
    }

    #[tokio::test]
    async fn links_are_listed_in_the_order_in_which_they_were_made_until_they_are_dropped() {
        let settings = ClientBuilder::default().endpoint_settings(None).unwrap();
        let name = |n| format!("memory://{n}");
        let link = |n| Link::new(Uri::parse(&name(n)).unwrap(), Arc::clone(&settings));
        let mut links: Vec<_> = (0..200).map(link).collect();
        let listed = || settings.all.infos().into_iter().map(|it| it.uri).collect::<Vec<_>>();
        assert_eq!(listed(), (0..200).map(name).collect::<Vec<_>>());
        let mut number = 0;
        links.retain(|_| {
            number += 1;
            number % 3 == 0
        });
        assert_eq!(listed(), (0..200).filter(|n| n % 3 == 2).map(name).collect::<Vec<_>>());
    }
}
