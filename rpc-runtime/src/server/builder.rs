//! [`ServerBuilder`].

mod announce;
mod bind;
mod limits;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Registry;

use super::connections::ConnectionLimits;
use super::workers::WorkLimits;
use crate::budget::MemoryLimits;
use crate::connection::{ChannelSettings, Initializer};
use crate::descriptor::Dispatch;
use crate::handlers::Heartbeat;
use crate::observe::{Observer, Side};
use crate::pipeline::Change;
use crate::service::Service;
#[cfg(feature = "tls")]
use crate::transport::ServerTls;

/// Longest drain timeout; far enough from where a point in time overflows.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// With a shorter age, clients would spend most of their time connecting.
const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Most event loops; more than machines have cores.
const MAX_EVENT_LOOPS: usize = 1_024;

/// Settings of a [`Server`](super::Server); each has a default that is safe in production.
#[must_use]
pub struct ServerBuilder {
    services: Vec<Arc<dyn Service>>,
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
        let services = self.services.iter().map(|service| service.descriptor().key().to_string());
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
    /// Provides a service. Several may share a listener, and several major versions of one, too.
    pub fn provide(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Announces the services there, from [`bind`](Self::bind) until the server ends. Without it
    /// nothing is announced.
    pub fn registry(mut self, registry: Arc<dyn Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// The URI under which consumers reach this server, if that is not the bound one (behind a
    /// proxy, or when bound to all addresses of the machine).
    pub fn advertise(mut self, uri: impl Into<String>) -> Self {
        self.advertise = Some(uri.into());
        self
    }

    /// The weight to announce: a provider of twice the weight is to get twice the calls. Default
    /// 100, Dubbo's.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Text to announce along with the services.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Where methods run whose contract does not say. Default [`Dispatch::Inline`], the fastest: a
    /// method that turns out to hold the thread for more than a millisecond is moved to tasks of
    /// its own, but the first such call delays the others of its connection.
    pub fn dispatch(mut self, mode: Dispatch) -> Self {
        self.dispatch = mode;
        self
    }

    /// How long [`Server::shutdown`](super::Server::shutdown) lets requests in work go on, and waits
    /// for clients to end their connections, which they do once they have their answers. Default
    /// 10 s, Dubbo's. Longer than a day counts as a day.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout.min(MAX_DRAIN_TIMEOUT);
        self
    }

    /// Maximum age of a connection, ±10 %. Default: no limit; at least 1 s.
    ///
    /// At that age the client gets a goaway. It opens a new connection for its next call, and closes
    /// the old one when its calls in progress are answered. No call is lost.
    ///
    /// Behind a load balancer this spreads long-lived clients over new servers. It is not needed for
    /// TLS: a connection ends when its client's certificate expires, or when a
    /// [reload](crate::ServerTls::reload) of roots or revocation lists refuses it.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = Some(age.max(MIN_CONNECTION_AGE));
        self
    }

    /// Serves on so many threads of its own, at most 1,024; 0 for one per core that the process may
    /// use. By default there are none: the server runs in the runtime that it is bound in. Linux only,
    /// for `tcp` and `tls`.
    ///
    /// Each thread runs a current-thread tokio runtime, is pinned to a core and has a socket of its
    /// own on the address (`SO_REUSEPORT`). A connection stays on the thread that accepted it, and so
    /// do its methods with all that they spawn; `blocking` methods run on the server's blocking
    /// threads, which are not pinned.
    ///
    /// It pays with many busy connections, at least several for each loop, since the system spreads
    /// them by chance: calls then never change threads. It costs fairness. A method that computes for
    /// long holds all the connections of its loop, where a shared runtime would serve them on another
    /// core: mark it `#[rpc(blocking)]`. Measure with your own load before you decide.
    ///
    /// What else to know:
    /// - Threads and processes that a method starts by itself inherit the pinning, and
    ///   `available_parallelism` is 1 there. Start pools of threads before, outside of methods.
    /// - `tokio::task::block_in_place` panics on such a runtime.
    /// - A client belongs to the runtime that it was connected in. One that is connected outside may
    ///   be used by methods; one that a method connects lives as long as its loop.
    /// - What methods have spawned, and oneways that are still in work, end with the loop: when the
    ///   server is dropped, or [shut down](super::Server::shutdown).
    pub fn event_loops(mut self, threads: usize) -> Self {
        self.event_loops = Some(threads.min(MAX_EVENT_LOOPS));
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

    /// How a connection is known to be alive. Default: both ends ask after 60 s without a sign of
    /// life, and close after 180 s.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Whether internal details of errors are sent to clients: panic texts, the causes of an
    /// [`RpcError`](crate::RpcError) (its [`source`](std::error::Error::source)) and its peer. Default
    /// `false`: they name files, addresses and other services of this process, and are logged instead.
    ///
    /// For development only. The message of an error and the errors of the contract are always sent.
    /// Items of streams never carry the details.
    pub fn expose_internal_errors(mut self, on: bool) -> Self {
        self.settings.expose_internal_errors = on;
        self
    }

    /// Whether calls and connections are counted, with the `metrics` facade. Default `true`.
    ///
    /// Without a recorder that costs next to nothing. The recorder must be installed before the
    /// server is bound: the handles of its methods are made then. What is counted is in
    /// `docs/observability.md`.
    pub fn metrics(mut self, on: bool) -> Self {
        self.settings.observer = Observer::new(Side::Server, on);
        self
    }

    /// Adds handlers to the pipeline of each new connection.
    pub fn pipeline(mut self, handlers: impl Fn() -> Vec<Change> + Send + Sync + 'static) -> Self {
        self.initializer = Some(Arc::new(handlers));
        self
    }

    /// How the server proves who it is to clients of a `tls://host:port`. Such an address cannot be
    /// bound without it, and others do not use it.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }
}
