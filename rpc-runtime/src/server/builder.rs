//! [`ServerBuilder`].

mod announce;
mod bind;
mod limits;
mod services;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Registry;

use super::connections::ConnectionLimits;
use super::dispatcher::Provided;
use super::workers::WorkLimits;
use crate::budget::MemoryLimits;
use crate::call::Interceptors;
use crate::connection::{ChannelSettings, Initializer};
use crate::descriptor::Dispatch;
use crate::handlers::Heartbeat;
use crate::observe::{Observer, Side};
use crate::pipeline::Change;
#[cfg(feature = "tls")]
use crate::transport::ServerTls;

/// Longest drain timeout. Adding it to a point in time does not overflow.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Shortest maximum age: with a shorter one, clients would mostly connect.
const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Maximum number of event loops, more than machines have cores.
const MAX_EVENT_LOOPS: usize = 1_024;

/// Settings of a [`Server`](super::Server). All have defaults that are safe for production.
#[must_use]
pub struct ServerBuilder {
    services: Vec<Provided>,
    interceptors: Interceptors,
    registry: Option<Arc<dyn Registry>>,
    advertise: Option<String>,
    weight: u32,
    metadata: Vec<(String, String)>,
    dispatch: Dispatch,
    drain_timeout: Duration,
    max_connection_age: Option<Duration>,
    event_loops: Option<usize>,
    connections: ConnectionLimits,
    work: WorkLimits,
    settings: ChannelSettings,
    memory: MemoryLimits,
    initializer: Option<Initializer>,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            interceptors: Interceptors::new(),
            registry: None,
            advertise: None,
            weight: 100,
            metadata: Vec::new(),
            dispatch: Dispatch::Inline,
            drain_timeout: Duration::from_secs(10),
            max_connection_age: None,
            event_loops: None,
            connections: ConnectionLimits { total: 16_384, per_address: None },
            work: WorkLimits::default(),
            settings: ChannelSettings {
                handshake_timeout: Some(Duration::from_secs(10)),
                observer: Observer::new(Side::Server, true),
                ..ChannelSettings::default()
            },
            memory: MemoryLimits::default(),
            initializer: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |provided: &Provided| provided.service.descriptor().key().to_string();
        let services = self.services.iter().map(key);
        f.debug_struct("ServerBuilder")
            .field("services", &services.collect::<Vec<_>>())
            .field("event_loops", &self.event_loops)
            .field("connections", &self.connections)
            .field("work", &self.work)
            .field("settings", &self.settings)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// Registers the services in `registry`, from [`bind`](Self::bind) until the server ends.
    /// Default: no registry.
    pub fn registry(mut self, registry: Arc<dyn Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// URI to register in place of the bound one, for servers behind a proxy or bound to all
    /// addresses of the machine. Default: the bound URI.
    pub fn advertise(mut self, uri: impl Into<String>) -> Self {
        self.advertise = Some(uri.into());
        self
    }

    /// Weight to register. Default 100, as in Dubbo. Load balancers do not use it yet.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Metadata to register with the services.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Where methods run whose contract has no such option. Default [`Dispatch::Inline`], the
    /// fastest. A method that holds the thread for more than a millisecond is then spawned for a
    /// while, but the first such call delays the others of its connection.
    pub fn dispatch(mut self, mode: Dispatch) -> Self {
        self.dispatch = mode;
        self
    }

    /// Time that [`Server::shutdown`](super::Server::shutdown) gives to running requests, and to
    /// clients to close their connections after the responses. Default 10 s, as in Dubbo; at most a
    /// day.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout.min(MAX_DRAIN_TIMEOUT);
        self
    }

    /// Maximum age of a connection, ±10 %. Default: no limit; at least 1 s.
    ///
    /// At that age the client gets a goaway. It opens a new connection for its next call, and
    /// closes the old one when its calls in progress are answered. No call is lost.
    ///
    /// Behind a load balancer this spreads long-lived clients over new servers. It is not needed
    /// for TLS: a connection ends when its client's certificate expires, or when a
    /// [reload](crate::ServerTls::reload) of roots or revocation lists refuses it.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = Some(age.max(MIN_CONNECTION_AGE));
        self
    }

    /// Serves on this number of separate threads, at most 1,024; 0 for one per core that the
    /// process may use. Default: none; the server runs in the runtime in which it is bound. Linux
    /// only, for `tcp` and `tls`.
    ///
    /// Each thread runs a current-thread tokio runtime, is pinned to a core and has its own socket
    /// on the address (`SO_REUSEPORT`). A connection stays on the thread that accepted it, with its
    /// methods and the tasks that they spawn. `blocking` methods run on the server's blocking
    /// threads, which are not pinned.
    ///
    /// Use it with many busy connections, at least several for each loop, since the system
    /// distributes them at random. Calls then never change threads. The cost is fairness: a long
    /// computation in a method delays all connections of its loop, where a shared runtime would
    /// serve them on another core. Mark such methods `#[rpc(blocking)]`. Measure with your own load
    /// before you decide.
    ///
    /// Restrictions:
    /// - Threads and processes that a method starts inherit the pinning, and `available_parallelism` is
    ///   1 there. Start thread pools outside of methods.
    /// - `tokio::task::block_in_place` panics on such a runtime.
    /// - A client belongs to the runtime in which it was connected. Methods may use one that was
    ///   connected elsewhere; one that a method connects lives as long as its loop.
    /// - Tasks that methods have spawned, and running oneways, end with the loop: when the server is
    ///   dropped or [shut down](super::Server::shutdown).
    pub fn event_loops(mut self, threads: usize) -> Self {
        self.event_loops = Some(threads.min(MAX_EVENT_LOOPS));
        self
    }

    /// Number of gathered frames that are written at once without waiting for more; at least 1.
    ///
    /// Default: while fewer connections of the process are busy than there are cores, a quarter of
    /// the frames in flight on the connection and at least 16, so that both ends work at the same
    /// time; otherwise 256, since larger writes cost less.
    pub fn flush_after(mut self, frames: usize) -> Self {
        self.settings.flush_after = Some(frames.max(1));
        self
    }

    /// Detection of dead connections. Default: both ends ping after 60 s of silence, and close
    /// after 180 s.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Whether internal details of errors are sent to clients: panic texts, the causes of an
    /// [`RpcError`](crate::RpcError) (its [`source`](std::error::Error::source)) and its peer.
    /// Default `false`: they name files, addresses and other services of this process, and are
    /// logged instead.
    ///
    /// For development only. The message of an error and the errors of the contract are always
    /// sent. Items of streams never carry the details.
    pub fn expose_internal_errors(mut self, on: bool) -> Self {
        self.settings.expose_internal_errors = on;
        self
    }

    /// Records metrics of calls and connections with the `metrics` facade. Default `true`.
    ///
    /// The cost without a recorder is negligible. Install the recorder before the server is bound:
    /// handles of its methods are created then. The metrics are listed in `docs/observability.md`.
    pub fn metrics(mut self, on: bool) -> Self {
        self.settings.observer = Observer::new(Side::Server, on);
        self
    }

    /// Adds handlers to the pipeline of each new connection.
    pub fn pipeline(mut self, handlers: impl Fn() -> Vec<Change> + Send + Sync + 'static) -> Self {
        self.initializer = Some(Arc::new(handlers));
        self
    }

    /// Certificate and key of the server, and the check of client certificates. Required for
    /// `tls://`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }
}
