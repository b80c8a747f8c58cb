//! [`Endpoint`]: the connections to one address.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::link::{Availability, Link};
use super::{BackOff, Connections, Invoker};
use crate::connection::{Channel, ChannelSettings, Initializer};
use crate::error::RpcError;
use crate::transport::ConnectSettings;
use crate::uri::Uri;

/// What the endpoints of a client have in common.
pub(crate) struct EndpointSettings {
    pub(crate) channel: Arc<ChannelSettings>,
    pub(crate) initializer: Option<Initializer>,
    pub(crate) connect_timeout: Duration,
    pub(crate) transport: ConnectSettings,
    pub(crate) back_off: BackOff,
    /// How long calls that are under way may take when the client is closed.
    pub(crate) drain_timeout: Duration,
    /// Links of each endpoint, at least 1.
    pub(crate) connections: usize,
    pub(crate) all: Arc<Connections>,
    /// Permits for connection attempts.
    pub(crate) connecting: Semaphore,
    /// Where connections live, whoever makes the call that needs one.
    pub(crate) runtime: Handle,
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

    /// What can be had at once; from the link whose turn it is, if that is connected.
    pub(crate) fn availability(&self) -> Availability {
        if let [only] = &*self.links {
            return only.availability();
        }
        let mut missing = None;
        for link in self.in_turn() {
            match link.availability() {
                Availability::Ready(channel) => {
                    // Its turn passes to one that is connected; the next one may be its own.
                    missing.inspect(|missing: &&Arc<Link>| missing.begin());
                    return Availability::Ready(channel);
                }
                Availability::Connectable => missing = missing.or(Some(link)),
                Availability::BackingOff => {}
            }
        }
        missing.map_or(Availability::BackingOff, |_| Availability::Connectable)
    }

    /// The channels that are open now.
    pub(crate) fn open(&self) -> impl Iterator<Item = Arc<Channel>> {
        self.links.iter().filter_map(|link| match link.availability() {
            Availability::Ready(channel) => Some(channel),
            Availability::Connectable | Availability::BackingOff => None,
        })
    }

    /// The address is no longer in use: what is in flight is finished, nothing new is sent, no
    /// attempt is made again.
    pub(crate) fn retire(&self, why: &str) {
        let why = RpcError::unavailable(why).with_peer(&self.uri).unexecuted();
        self.links.iter().for_each(|link| link.close(why.clone(), Channel::retire));
    }

    /// There is a new provider at the address: it is tried at once when a call needs it.
    pub(crate) fn announce(&self) {
        self.links.iter().for_each(|link| link.announce());
    }

    /// A channel, after waiting for the first of the attempts that succeeds if need be. All links
    /// whose attempts are due are begun. Dropping the future leaves the attempts to the others that
    /// wait for them.
    pub(crate) async fn connected(&self) -> Result<Arc<Channel>, RpcError> {
        if let [only] = &*self.links {
            return only.connected().await;
        }
        self.begin();
        let mut attempts: Vec<_> = self.in_turn().map(|link| Box::pin(link.connected())).collect();
        let mut failed = RpcError::unavailable("there is no connection");
        poll_fn(|cx| {
            let mut connected = None;
            attempts.retain_mut(|attempt| match attempt.as_mut().poll(cx) {
                Poll::Ready(Ok(channel)) => {
                    connected = Some(channel);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed = error;
                    false
                }
                Poll::Pending => true,
            });
            match connected {
                Some(channel) => Poll::Ready(Ok(channel)),
                None if attempts.is_empty() => Poll::Ready(Err(failed.clone())),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Begins the attempts that are due; nobody waits for them.
    pub(crate) fn begin(&self) {
        self.links.iter().for_each(Link::begin);
    }

    /// `channel` takes no more calls: its link is made again when a call needs it.
    pub(crate) fn forget(&self, channel: &Arc<Channel>) {
        self.links.iter().for_each(|link| link.forget(channel));
    }
}

impl Drop for Endpoint {
    /// Nobody can call here any more.
    fn drop(&mut self) {
        self.retire("the client is gone");
    }
}

/// The invoker of a client with one peer.
pub(crate) struct SinglePeer {
    pub(crate) endpoint: Endpoint,
    pub(crate) settings: Arc<EndpointSettings>,
}

impl Invoker for SinglePeer {
    fn ready(&self) -> Option<Arc<Channel>> {
        match self.endpoint.availability() {
            Availability::Ready(channel) => Some(channel),
            Availability::Connectable | Availability::BackingOff => None,
        }
    }

    fn acquire(&self) -> Pin<Box<dyn Future<Output = Result<Arc<Channel>, RpcError>> + Send + '_>> {
        Box::pin(self.endpoint.connected())
    }

    fn open(&self) -> Vec<Arc<Channel>> {
        self.endpoint.open().collect()
    }

    fn discard(&self, channel: &Arc<Channel>) {
        self.endpoint.forget(channel);
    }

    fn describe(&self) -> String {
        self.endpoint.uri().to_string()
    }

    fn settings(&self) -> &EndpointSettings {
        &self.settings
    }
}
