//! [`Endpoint`]: the connections to one address.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use super::link::{Link, LinkState};
use super::pick::Pick;
use super::settings::EndpointSettings;
use crate::connection::Channel;
use crate::error::RpcError;
use crate::uri::Uri;

/// What an endpoint offers without waiting.
pub(crate) enum Availability {
    Ready(Pick),
    /// An attempt is in progress or due.
    Connectable,
    /// The last attempt failed and the next is not due, or none will be made.
    BackingOff,
}

/// One address, with a fixed number of links to it. Calls take the connected ones in turn.
pub(crate) struct Endpoint {
    uri: Uri,
    links: Box<[Arc<Link>]>,
    next: AtomicUsize,
}

impl Endpoint {
    pub(crate) fn new(uri: Uri, settings: &Arc<EndpointSettings>) -> Self {
        let link = |_| Link::new(uri.clone(), Arc::clone(settings));
        let links = (0..settings.connections.max(1)).map(link).collect();
        Self { uri, links, next: AtomicUsize::new(0) }
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The links, the one whose turn it is first.
    fn in_turn(&self) -> impl Iterator<Item = &Arc<Link>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let (before, from) = self.links.split_at(turn.checked_rem(self.links.len()).unwrap_or(0));
        from.iter().chain(before)
    }

    /// The state without waiting; that of the next link in turn, if it is connected.
    #[inline]
    pub(crate) fn availability(&self) -> Availability {
        if let [only] = &*self.links {
            return match only.state() {
                LinkState::Ready(channel) => Availability::Ready(only.pick(channel)),
                LinkState::Connectable => Availability::Connectable,
                LinkState::BackingOff => Availability::BackingOff,
            };
        }
        let mut missing = None;
        for link in self.in_turn() {
            match link.state() {
                LinkState::Ready(channel) => {
                    // A connected link takes its turn.
                    missing.inspect(|missing: &&Arc<Link>| missing.begin());
                    return Availability::Ready(link.pick(channel));
                }
                LinkState::Connectable => missing = missing.or(Some(link)),
                LinkState::BackingOff => {}
            }
        }
        missing.map_or(Availability::BackingOff, |_| Availability::Connectable)
    }

    /// The open channels.
    pub(crate) fn open(&self) -> impl Iterator<Item = Arc<Channel>> {
        self.links.iter().filter_map(|link| match link.state() {
            LinkState::Ready(channel) => Some(channel),
            LinkState::Connectable | LinkState::BackingOff => None,
        })
    }

    /// Whether there is a connection that takes calls.
    pub(crate) fn is_connected(&self) -> bool {
        self.open().next().is_some()
    }

    /// Whether there is no connection and the last attempts failed.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.links.iter().all(|link| link.is_failing())
    }

    /// The address is no longer in use: calls in flight continue, no new call is sent, and no
    /// further attempt is made.
    pub(crate) fn retire(&self, why: &str) {
        let why = RpcError::unavailable(why).with_peer(&self.uri).unexecuted();
        self.links.iter().for_each(|link| link.close(why.clone(), Channel::drain));
    }

    /// There is a new provider at the address, so the next call connects at once.
    pub(crate) fn announce(&self) {
        self.links.iter().for_each(|link| link.announce());
    }

    /// A connection, after waiting for the first of the attempts that succeeds if need be. All
    /// links whose attempts are due are begun. Dropping the future leaves the attempts to the
    /// others that wait for them.
    pub(crate) async fn connected(&self) -> Result<Pick, RpcError> {
        if let [only] = &*self.links {
            return only.connected().await;
        }
        self.begin();
        let mut attempts: Vec<_> = self.in_turn().map(|link| Box::pin(link.connected())).collect();
        let mut failed = RpcError::unavailable("there is no connection");
        poll_fn(|cx| {
            let mut connected = None;
            attempts.retain_mut(|attempt| match attempt.as_mut().poll(cx) {
                Poll::Ready(Ok(pick)) => {
                    connected = Some(pick);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed = error;
                    false
                }
                Poll::Pending => true,
            });
            match connected {
                Some(pick) => Poll::Ready(Ok(pick)),
                None if attempts.is_empty() => Poll::Ready(Err(failed.clone())),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Begins the attempts that are due, in the background.
    pub(crate) fn begin(&self) {
        self.links.iter().for_each(Link::begin);
    }
}

impl Drop for Endpoint {
    /// The last user of the endpoint is gone.
    fn drop(&mut self) {
        self.retire("the client is gone");
    }
}
