//! [`ClientBuilder`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::discovery::DiscoverySettings;
use super::endpoint::SinglePeer;
use super::{
    BackOff, Client, Connections, DEFAULT_TIMEOUT, Encoding, Endpoint, EndpointSettings, Invoker,
};
use crate::budget::{Budget, MemoryLimits};
use crate::connection::{ChannelSettings, Initializer, MIN_SLOW_READER_TIMEOUT};
use crate::error::RpcError;
use crate::handlers::Heartbeat;
use crate::observe::{Methods, Observer, Side};
use crate::pipeline::{Change, Watermarks};
use crate::runtime::current_runtime;
use crate::transport::{self, ConnectSettings};
#[cfg(feature = "tls")]
use crate::transport::{ClientTls, Connector};
use crate::uri::Uri;

/// Connection attempts of a client at a time; further attempts wait. A long list of unreachable
/// addresses must not take all sockets of the process.
const MAX_CONNECTING: usize = 128;

/// Most connections to one address.
const MAX_CONNECTIONS: usize = 1_024;

/// Settings of a [`Client`]; each has a default that is safe in production.
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
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// How long a call may take when the contract does not say. Default 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long one connection attempt may take. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a provider is left alone after an attempt that failed. Default: 100 ms, doubling to
    /// 30 s, ±50 %.
    pub fn back_off(mut self, back_off: BackOff) -> Self {
        self.back_off = back_off;
        self
    }

    /// Whether [`connect`](Self::connect) leaves the first attempt to the first call, and so succeeds
    /// whether or not there is a provider. Default `false`. [`discover`](Self::discover) does so in
    /// any case.
    pub fn lazy(mut self, lazy: bool) -> Self {
        self.lazy = lazy;
        self
    }

    /// Whether calls wait for a connection within their deadlines, instead of failing at once while
    /// there is none and none is being made: see [`Client::with_wait_for_ready`]. Default `false`.
    /// It is about calls: [`connect`](Self::connect) makes one attempt, or none if it is
    /// [lazy](Self::lazy).
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// How long [`Client::close`] lets the calls that are under way go on. Default 10 s; 0 cuts them
    /// off at once.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Connections to each address; calls take them in turn. Default 1, at least 1, at most 1,024.
    ///
    /// One connection is served by one task at each end, so by one core at a time. More of them pay
    /// when that is the limit, or when a provider has
    /// [event loops](crate::ServerBuilder::event_loops). They cost memory and system calls at both
    /// ends: few calls on each of many connections gather less well than many on one.
    ///
    /// All are begun when the first call needs one; that call takes the first that is there. A
    /// connection that is lost fails its own calls only, and is made again when its turn comes.
    /// Limits of a connection, as [`max_in_flight`](Self::max_in_flight), hold for each of them.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(1, MAX_CONNECTIONS);
        self
    }

    /// How structs are written. Default [`Encoding::ByContract`].
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Sends what has gathered after so many frames, and does not wait for more; at least 1.
    ///
    /// By default, while fewer connections of the process are busy than there are cores, these are
    /// a quarter of what is under way on the connection, and 16 at least: both ends are then at work
    /// at the same time. When all cores are busy it is 256, for larger writes cost less.
    pub fn flush_after(mut self, frames: usize) -> Self {
        self.settings.flush_after = Some(frames.max(1));
        self
    }

    /// Largest payload, arguments or result, in bytes. A larger one fails that call only. Default
    /// 8 MiB; at most 4 GiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.settings.max_payload = bytes;
        self
    }

    /// Maximum memory of one decoded value, in bytes: the arguments of a call, a result, or an item of
    /// a stream. Default: four times the encoded length, at least 32 MiB. A larger value fails only
    /// its call, with the status `decode`.
    ///
    /// Memory is charged before it is allocated, by the rules of
    /// [`DecodeLimits::memory`](crate::protocol::DecodeLimits::memory). Many small maps are charged
    /// more than other values of the same encoded length.
    pub fn max_decoded(mut self, bytes: usize) -> Self {
        self.settings.decode = self.settings.decode.memory(bytes);
        self
    }

    /// Limits of the memory that the client holds for its providers. Default: 32 MiB per
    /// connection, 128 MiB per address, and a quarter of the machine's memory in total. See
    /// [`MemoryLimits`].
    pub fn memory_limits(mut self, limits: MemoryLimits) -> Self {
        self.memory = limits;
        self
    }

    /// Minimum rate of a provider, in bytes per second. Default 4,096. The connection of a slower
    /// provider is closed.
    ///
    /// It holds for sending a frame that has begun, measured over 15 s, and for reading requests
    /// that wait, measured over [`slow_reader_timeout`](Self::slow_reader_timeout). With 0, a frame
    /// may take any time, and reading any byte is enough.
    pub fn min_rate(mut self, bytes_per_second: u32) -> Self {
        self.settings.min_rate = bytes_per_second;
        self
    }

    /// Calls that may wait for their answers on one connection; more wait for their turn, within
    /// their deadlines. Default 16,384; at least 1.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.settings.max_in_flight = calls.max(1);
        self
    }

    /// When a connection counts as congested; new calls wait for their turn then.
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.settings.watermarks = watermarks;
        self
    }

    /// Closes a connection when requests wait to be written and its provider has read none of them
    /// for this time, or fewer bytes than [`min_rate`](Self::min_rate) requires. Default 30 s; at
    /// least 100 ms; [`Duration::MAX`] for never.
    ///
    /// Without it, one that stops reading and does not go away would keep the memory of what waits
    /// for it for ever.
    pub fn slow_reader_timeout(mut self, timeout: Duration) -> Self {
        self.settings.slow_reader_timeout = timeout.max(MIN_SLOW_READER_TIMEOUT);
        self
    }

    /// How a connection is known to be alive. Default: both ends ask after 60 s without a sign of
    /// life, and close after 180 s.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Whether calls and connections are counted, with the `metrics` facade. Default `true`.
    ///
    /// Without a recorder that costs next to nothing. The recorder must be installed before the
    /// client connects: the handles of a connection are made when it opens, those of a method when
    /// it is first called. What is counted is in `docs/observability.md`.
    pub fn metrics(mut self, on: bool) -> Self {
        self.settings.observer = Observer::new(Side::Client, on);
        self
    }

    /// Adds handlers to the pipeline of each new connection.
    pub fn pipeline(mut self, handlers: impl Fn() -> Vec<Change> + Send + Sync + 'static) -> Self {
        self.initializer = Some(Arc::new(handlers));
        self
    }

    /// Whom the client believes at a `tls://host:port`, and how it proves who it is. Without it there
    /// is nobody to believe, and such addresses are refused.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects to one provider. The connection is made again when it is lost and a call needs it.
    ///
    /// # Errors
    /// The URI or a setting is invalid, nobody answers there, or there is no tokio runtime. If it is
    /// [lazy](Self::lazy), it does not show here whether anybody answers.
    pub async fn connect(self, uri: impl AsRef<str>) -> Result<Client, RpcError> {
        let settings = self.endpoint_settings(None)?;
        let uri = Uri::parse(uri.as_ref())?;
        transport::check(&uri, &settings.transport)?;
        let endpoint = Endpoint::new(uri, &settings);
        if !self.lazy {
            endpoint.connected().await?;
        }
        Ok(self.client(Arc::new(SinglePeer { endpoint, settings })))
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

    pub(crate) fn client(&self, invoker: Arc<dyn Invoker>) -> Client {
        let observer = self.settings.observer;
        observer.describe();
        Client {
            invoker,
            timeout: None,
            default_timeout: self.timeout,
            wait_for_ready: self.wait_for_ready,
            encoding: self.encoding,
            decode: self.settings.decode,
            metadata: None,
            methods: Methods::new(observer),
        }
    }
}
