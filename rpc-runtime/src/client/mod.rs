//! Calling services: [`Client`].

mod builder;
mod encoding;
mod endpoint;
mod invoke;
mod link;
mod no_services;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use builder::ClientBuilder;
pub use encoding::Encoding;
pub(crate) use endpoint::{Endpoint, EndpointSettings};
pub use invoke::{call, notify};
pub(crate) use link::Availability;

use crate::channel::{Channel, ChannelHandle};
use crate::context::Metadata;
use crate::error::RpcError;
use crate::observe::Methods;

/// How long a call may take when neither the caller nor the contract says: 10 s.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle for calls: to one peer, or to all the providers of a service. Generated stubs wrap it.
///
/// A client lives in the tokio runtime that it was connected in: connections are made there, also
/// when they are made again. That runtime must be running while calls are made, from wherever they
/// are: the connection's task, which is there, keeps the deadlines too.
///
/// Cheap to clone; clones share the connections. The settings of a clone
/// ([`with_timeout`](Self::with_timeout), …) are its own.
#[derive(Clone)]
pub struct Client {
    invoker: Arc<dyn Invoker>,
    timeout: Option<Duration>,
    default_timeout: Duration,
    encoding: Encoding,
    metadata: Option<Arc<Metadata>>,
    /// If metrics are on.
    methods: Option<Arc<Methods>>,
}

impl Client {
    /// Settings of a new client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The same client with another timeout for its calls. It goes before the one of the contract.
    ///
    /// A call inside of a handler is bounded by that handler's own deadline as well. Longer than
    /// 49 days counts as 49 days.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// The same client, sending this text along with each call. Providers read it with
    /// [`Context::metadata`](crate::Context::metadata). All of it together may have 16 KiB.
    #[must_use]
    pub fn with_metadata(&self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let mut metadata = self.metadata.as_deref().cloned().unwrap_or_default();
        metadata.insert(key.into(), value.into());
        Self { metadata: Some(Arc::new(metadata)), ..self.clone() }
    }

    /// The connections that are open now.
    pub fn channels(&self) -> Vec<ChannelHandle> {
        self.invoker.open().into_iter().map(ChannelHandle::new).collect()
    }

    /// The same client, writing structs this way.
    #[must_use]
    pub fn with_encoding(&self, encoding: Encoding) -> Self {
        Self { encoding, ..self.clone() }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.invoker.describe())
            .field("timeout", &self.timeout.unwrap_or(self.default_timeout))
            .finish_non_exhaustive()
    }
}

/// Where calls go. One connection is the simplest invoker, a cluster of them another.
pub(crate) trait Invoker: Send + Sync + 'static {
    /// A channel that can be used at once, if there is one. Takes no more than a lock.
    fn ready(&self) -> Option<Arc<Channel>>;

    /// A channel, after connecting if need be.
    fn acquire(&self) -> Pin<Box<dyn Future<Output = Result<Arc<Channel>, RpcError>> + Send + '_>>;

    /// The channels that are open now.
    fn open(&self) -> Vec<Arc<Channel>>;

    /// `channel` takes no more calls.
    fn discard(&self, channel: &Arc<Channel>);

    /// What this leads to, for messages.
    fn describe(&self) -> String;
}
