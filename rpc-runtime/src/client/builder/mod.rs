//! [`ClientBuilder`].

mod discover;
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
use crate::call::{Interceptor, Interceptors};
use crate::connection::{ChannelSettings, Initializer};
use crate::error::RpcError;
use crate::handlers::Heartbeat;
use crate::observe::{Methods, Observer, Side};
use crate::pipeline::Change;
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

    /// Adds an interceptor, which runs before and after each call. The first that is added is the
    /// outermost: it sees a call first and its outcome last. See [`Interceptor`].
    ///
    /// Interceptors run in the task of the caller and within the deadline of the call, also while
    /// they wait for something of their own. Metrics and the call's span are outside of them: a call
    /// is counted as what its caller gets.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use rpc_runtime::{Call, Client, Interceptor, Next, Reply, Result};
    ///
    /// /// Sends a token along with each call.
    /// struct Bearer(&'static str);
    ///
    /// impl Interceptor for Bearer {
    ///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
    ///         call.set_metadata("authorization", format!("Bearer {}", self.0));
    ///         next.run(call).await
    ///     }
    /// }
    ///
    /// # async fn connect() -> Result<()> {
    /// let client = Client::builder()
    ///     .timeout(Duration::from_millis(300))
    ///     .interceptor(Bearer("s3cret"))
    ///     .connect("tcp://127.0.0.1:9000")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors = self.interceptors.with(interceptor);
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
            // Whoever calls first picks it anew.
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
            methods: Methods::new(observer),
        }
    }
}
