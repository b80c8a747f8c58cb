//! [`ClientBuilder`].

mod discover;
mod extensions;
mod limits;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::back_off::BackOff;
use super::connections::Connections;
use super::discovery::DiscoverySettings;
use super::encoding::Encoding;
use super::endpoint::Endpoint;
use super::handle::{Client, DEFAULT_TIMEOUT};
use super::picker::{Picker, SingleAddress};
use super::settings::EndpointSettings;
use crate::budget::{Budget, MemoryLimits};
use crate::call::Interceptors;
use crate::connection::{ChannelSettings, Initializer};
use crate::error::RpcError;
use crate::handlers::Heartbeat;
use crate::observe::{MethodMetrics, Observer, Side};
use crate::runtime::current_runtime;
use crate::transport::{self, ConnectSettings};
#[cfg(feature = "tls")]
use crate::transport::{ClientTls, Connector};
use crate::uri::Uri;

/// Connection attempts of a client at a time; further attempts wait. A long list of unreachable
/// addresses must not take all sockets of the process.
const MAX_CONNECTING: usize = 128;

/// Maximum connections to one address.
const MAX_CONNECTIONS: usize = 1_024;

/// Settings of a [`Client`]. All have defaults that are safe for production.
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    timeout: Duration,
    connect_timeout: Duration,
    back_off: BackOff,
    lazy: bool,
    wait_for_ready: bool,
    drain_timeout: Duration,
    connections: usize,
    encoding: Encoding,
    settings: ChannelSettings,
    memory: MemoryLimits,
    initializer: Option<Initializer>,
    interceptors: Interceptors,
    pub(crate) discovery: DiscoverySettings,
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: Duration::from_secs(5),
            back_off: BackOff::default(),
            lazy: false,
            wait_for_ready: false,
            drain_timeout: Duration::from_secs(10),
            connections: 1,
            encoding: Encoding::default(),
            settings: ChannelSettings {
                side: Side::Client,
                observer: Observer::new(Side::Client, true),
                ..ChannelSettings::default()
            },
            memory: MemoryLimits::default(),
            initializer: None,
            interceptors: Interceptors::new(),
            discovery: DiscoverySettings::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("back_off", &self.back_off)
            .field("lazy", &self.lazy)
            .field("wait_for_ready", &self.wait_for_ready)
            .field("drain_timeout", &self.drain_timeout)
            .field("connections", &self.connections)
            .field("encoding", &self.encoding)
            .field("settings", &self.settings)
            .field("discovery", &self.discovery)
            .field("memory", &self.memory)
            .field("interceptors", &self.interceptors)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Settings of a new client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }
}

impl ClientBuilder {
    /// Timeout of calls whose contract has none. Default 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Timeout of one connection attempt. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Pause after a failed connection attempt. Default: 100 ms, doubling to 30 s, ±50 %.
    pub fn back_off(mut self, back_off: BackOff) -> Self {
        self.back_off = back_off;
        self
    }

    /// Defers connecting until the first call; errors of the connection surface there. Default
    /// `false`: [`connect`](Self::connect) waits for the connection. [`discover`](Self::discover)
    /// is always lazy.
    pub fn lazy(mut self, lazy: bool) -> Self {
        self.lazy = lazy;
        self
    }

    /// Makes calls wait within their deadlines for a connection, instead of failing at once while
    /// there is none and none is being made: see [`Client::with_wait_for_ready`]. Default `false`.
    /// [`connect`](Self::connect) is not affected: it makes one attempt, or none if it is
    /// [lazy](Self::lazy).
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Time that [`Client::close`] gives to calls in progress. Default 10 s; 0 ends them at once.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Connections to each address, used in turn. Default 1; 1 to 1,024.
    ///
    /// One connection is served by one task at each end, so by one core at a time. More connections
    /// help when that is the limit, or when a provider has
    /// [event loops](crate::ServerBuilder::event_loops). They cost memory and system calls at both
    /// ends: frames on many connections are batched less than on one.
    ///
    /// The first call begins all of them, and uses the first that is open. A lost connection fails
    /// its own calls only, and is made again when its turn comes. Limits of a connection, such as
    /// [`max_in_flight`](Self::max_in_flight), hold for each of them.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(1, MAX_CONNECTIONS);
        self
    }

    /// Encoding of structs. Default [`Encoding::ByContract`].
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Detection of dead connections. Default: both ends ping after 60 s of silence, and close
    /// after 180 s.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Records metrics of calls and connections with the `metrics` facade. Default `true`.
    ///
    /// The cost without a recorder is negligible. Install the recorder before the client connects:
    /// handles of a connection are created when it opens, those of a method at its first call. The
    /// metrics are listed in `docs/observability.md`.
    pub fn metrics(mut self, on: bool) -> Self {
        self.settings.observer = Observer::new(Side::Client, on);
        self
    }

    /// TLS trust roots and optional client certificate. Required for `tls://`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects to one provider. A lost connection is made again when a call needs it.
    ///
    /// # Errors
    /// The URI or a setting is invalid, the provider cannot be reached, or there is no tokio
    /// runtime. A [lazy](Self::lazy) client does not try to reach the provider here.
    pub async fn connect(self, uri: impl AsRef<str>) -> Result<Client, RpcError> {
        let settings = self.endpoint_settings(None)?;
        let uri = Uri::parse(uri.as_ref())?;
        transport::check(&uri, &settings.transport)?;
        let endpoint = Endpoint::new(uri, &settings);
        if !self.lazy {
            // The first call picks a connection again.
            drop(endpoint.connected().await?);
        }
        Ok(self.client(Arc::new(SingleAddress { endpoint, settings })))
    }

    /// `service` is the discovered service; `None` with a fixed address.
    ///
    /// # Errors
    /// A setting is invalid, or there is no tokio runtime.
    pub(crate) fn endpoint_settings(
        &self,
        service: Option<&str>,
    ) -> Result<Arc<EndpointSettings>, RpcError> {
        self.back_off.check()?;
        self.settings.heartbeat.check()?;
        Ok(Arc::new(EndpointSettings {
            channel: Arc::new(ChannelSettings {
                budget: Budget::new(self.memory, self.settings.observer),
                ..self.settings.clone()
            }),
            initializer: self.initializer.clone(),
            connect_timeout: self.connect_timeout,
            back_off: self.back_off,
            drain_timeout: self.drain_timeout,
            connections: self.connections,
            transport: self.connect_settings(service)?,
            all: Connections::new(),
            connecting: Semaphore::new(MAX_CONNECTING),
            runtime: current_runtime()?,
        }))
    }

    #[cfg(feature = "tls")]
    fn connect_settings(&self, service: Option<&str>) -> Result<ConnectSettings, RpcError> {
        let tls = self.tls.as_ref().map(|tls| Connector::new(tls, service)).transpose()?;
        Ok(ConnectSettings { tls })
    }

    #[cfg(not(feature = "tls"))]
    fn connect_settings(&self, _service: Option<&str>) -> Result<ConnectSettings, RpcError> {
        Ok(ConnectSettings::default())
    }

    pub(crate) fn client(&self, picker: Arc<dyn Picker>) -> Client {
        let observer = self.settings.observer;
        observer.describe();
        Client {
            picker,
            interceptors: self.interceptors.clone(),
            timeout: None,
            default_timeout: self.timeout,
            wait_for_ready: self.wait_for_ready,
            encoding: self.encoding,
            decode: self.settings.decode,
            metadata: None,
            methods: MethodMetrics::new(observer),
        }
    }
}
