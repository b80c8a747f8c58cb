//! [`ServerBuilder`].

use std::fmt;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rpc_registry::{Instance, Registry};
use tokio::sync::{mpsc, watch};

use super::accept::{Acceptor, Refusals};
use super::connections::{ConnectionLimits, Connections};
use super::dispatcher::Dispatcher;
use super::event_loops::EventLoops;
use super::executor::{WorkLimits, Workers};
use super::lifetime::Lifetime;
use super::{Accepting, Server};
use crate::budget::{Budget, MemoryLimits};
use crate::channel::{ChannelSettings, Initializer, MAX_CONTROL, MIN_SLOW_READER_TIMEOUT};
use crate::context::current_runtime;
use crate::descriptor::Dispatch;
use crate::error::RpcError;
use crate::handlers::Heartbeat;
use crate::observe::{Observer, Side};
use crate::pipeline::{Change, Watermarks};
use crate::protocol::{Hello, HelloService};
use crate::service::Service;
use crate::transport::{self, BoundSocket, ListenSettings, Listener};
#[cfg(feature = "tls")]
use crate::transport::{Acceptor as TlsAcceptor, ServerTls};
use crate::uri::Uri;

/// Longest drain timeout; far enough from where a point in time overflows.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// A shorter one would refuse clients that are merely far away.
const MIN_HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(100);

/// With a shorter age, clients would spend most of their time connecting.
const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Most event loops; more than machines have cores.
const MAX_EVENT_LOOPS: usize = 1_024;

/// Settings of a [`Server`]; each has a default that is safe in production.
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

    /// How long [`Server::shutdown`] lets requests in work go on, and waits for clients to end their
    /// connections, which they do once they have their answers. Default 10 s, Dubbo's. Longer than
    /// a day counts as a day.
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
    ///   server is dropped, or [shut down](Server::shutdown).
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

    /// Largest payload, arguments or result, in bytes. A larger one fails that call only. Default
    /// 8 MiB; at most 4 GiB.
    ///
    /// [`memory_limits`](Self::memory_limits) bounds how many payloads of that size are held at a
    /// time.
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

    /// Limits of the memory that the server holds for its clients. Default: 32 MiB per connection,
    /// 128 MiB per address, and a quarter of the machine's memory in total. See [`MemoryLimits`].
    pub fn memory_limits(mut self, limits: MemoryLimits) -> Self {
        self.memory = limits;
        self
    }

    /// Minimum rate of a client, in bytes per second. Default 4,096. The connection of a slower
    /// client is closed.
    ///
    /// It holds for sending a frame that has begun, measured over 15 s, and for reading responses
    /// that wait, measured over [`slow_reader_timeout`](Self::slow_reader_timeout). With 0, a frame
    /// may take any time, and reading any byte is enough.
    pub fn min_rate(mut self, bytes_per_second: u32) -> Self {
        self.settings.min_rate = bytes_per_second;
        self
    }

    /// Requests of one connection that may be in work in tasks of their own. Clients are told, and
    /// let further calls wait; from a client that sends more all the same, nothing is read until
    /// half are done. Default 1,024; at least 1.
    pub fn max_concurrent_requests(mut self, requests: usize) -> Self {
        self.settings.max_concurrent_requests = requests.max(1);
        self
    }

    /// Maximum requests of all connections that run in tasks of their own. Default 65,536; at least 1.
    ///
    /// A connection may have one more while it has fewer than are free: one connection alone gets
    /// half, two get a third each. Further requests of it are refused with the status `overloaded`,
    /// which is safe to retry; connections with fewer requests are still served. Requests that are
    /// answered at once do not count.
    pub fn max_total_concurrent_requests(mut self, requests: usize) -> Self {
        self.work.requests = requests.max(1);
        self
    }

    /// Maximum threads for [`blocking`](Dispatch::Blocking) methods. Default 512, as in tokio; at
    /// least 1.
    ///
    /// The server has its own pool, so blocking methods do not delay other users of tokio's blocking
    /// pool. Threads are started on demand and end after 10 s without work. Connections take turns. A
    /// connection may have one more thread while it has fewer than are free: one connection alone
    /// gets half, two get a third each. Further calls wait, within their deadlines.
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        self.work.blocking_threads = threads.max(1);
        self
    }

    /// Connections at a time; at least 1. Default 16,384. Further ones are refused with the status
    /// `overloaded` and a message that names this limit, and their clients try again later.
    ///
    /// An idle connection takes a file descriptor and a few kilobytes. A system that gives the
    /// process fewer descriptors is the limit then: connections wait in its queue, and are not told.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connections.total = connections.max(1);
        self
    }

    /// Connections of one IP address at a time; at least 1. Those above are refused like those
    /// above [`max_connections`](Self::max_connections). An IPv6 host has a whole /64 to connect
    /// from, so that counts as one address.
    ///
    /// By default there is no such limit: behind a proxy or an address translation all clients have
    /// one address. Set it where strangers can connect directly, so that one of them cannot take all
    /// the places.
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.connections.per_address = Some(connections.max(1));
        self
    }

    /// How long a client may take from connecting to its first whole frame, which is its hello;
    /// otherwise it is told and the connection closed. Default 10 s; at least 100 ms. What connects
    /// and says nothing would keep its place for ever.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = Some(timeout.max(MIN_HANDSHAKE_TIMEOUT));
        self
    }

    /// When a connection counts as congested; no requests are read from it then.
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.settings.watermarks = watermarks;
        self
    }

    /// Closes a connection when responses wait to be written and its client has read none of them
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

    /// Whether internal details of errors are sent to clients: panic texts, the causes of an
    /// [`RpcError`] (its [`source`](std::error::Error::source)) and its peer. Default `false`: they
    /// name files, addresses and other services of this process, and are logged instead.
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

    /// Listens on `uri`, starts to serve and announces the services.
    ///
    /// - `tcp://host:port`, port 0 for any free one.
    /// - `tls://host:port`: the same, encrypted; with the feature `tls` and `ServerBuilder::tls`.
    /// - `unix:///path`: a socket in the file system, for consumers on this machine. Its file is
    ///   made with the permissions of the process's umask; every user with write access to it may
    ///   call. Put it into a folder in which no other user can create files. It is removed when the
    ///   server ends, and that of a server that was killed is replaced. Beside it is a lock file,
    ///   `/path.lock`, which stays.
    /// - `memory:name`: within this process.
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The URI or the heartbeat is invalid, the port is in use, two services do not go together, the
    /// registry refuses the announcement, event loops are not possible there, or there is no tokio
    /// runtime.
    pub async fn bind(mut self, uri: impl AsRef<str>) -> Result<Server, RpcError> {
        current_runtime()?;
        self.settings.heartbeat.check()?;
        let uri = Uri::parse(uri.as_ref())?;
        self.settings.budget = Budget::new(self.memory, self.settings.observer);
        if self.services.is_empty() {
            tracing::warn!(%uri, "nothing is provided: name services with `provide`");
        }
        let observer = self.settings.observer;
        observer.describe();
        let dispatcher = Dispatcher::new(&self.services, self.dispatch, observer)?;
        let listen = self.listen_settings()?;
        let bound = Bound::new(&uri, self.event_loops, &listen).await?;
        let local_uri = bound.local_uri(&uri).clone();
        let instances = self.instances(&local_uri)?;

        let mut hello = Hello {
            max_payload: u32::try_from(self.settings.max_payload).unwrap_or(u32::MAX),
            max_requests: u32::try_from(self.settings.max_concurrent_requests).unwrap_or(u32::MAX),
            heartbeat_ms: self.settings.heartbeat.hello_ms(),
            stream_window: self.settings.budget.stream_window(),
            services: self
                .services
                .iter()
                .map(|service| HelloService::new(service.descriptor(), service.fingerprints()))
                .collect(),
            ..Hello::default()
        };
        hello.shorten(MAX_CONTROL)?;
        let hello_bytes = hello.encode()?.len();
        if hello_bytes > MAX_CONTROL {
            return Err(RpcError::invalid(format!(
                "the names of the {} services take {hello_bytes} bytes, a connection's greeting has \
                 room for {MAX_CONTROL}: provide fewer services in one server",
                self.services.len()
            )));
        }
        let (done, all_done) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Connections::new(self.connections));
        let acceptor = Arc::new(Acceptor {
            dispatcher: Arc::new(dispatcher),
            settings: Arc::new(self.settings),
            hello,
            initializer: self.initializer,
            connections: Arc::clone(&connections),
            workers: Arc::new(Workers::new(self.work, observer, done)),
            lifetime: Lifetime {
                max_age: self.max_connection_age,
                drain_timeout: self.drain_timeout,
            },
            refusals: Refusals::default(),
        });
        let mut server = Server {
            local_uri: local_uri.to_string(),
            drain_timeout: self.drain_timeout,
            observer,
            leases: Vec::new(),
            accepting: bound.accept(&acceptor, &stopped, &listen).await?,
            stop,
            connections,
            all_done,
        };
        if let Some(registry) = self.registry {
            for instance in instances {
                server.leases.push(announce(&*registry, instance).await?);
            }
        }
        tracing::info!(uri = server.local_uri(), "serving");
        Ok(server)
    }

    fn listen_settings(&self) -> Result<ListenSettings, RpcError> {
        Ok(ListenSettings {
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref().map(TlsAcceptor::new).transpose()?,
        })
    }

    /// What to announce; nothing without a registry.
    fn instances(&self, local: &Uri) -> Result<Vec<Instance>, RpcError> {
        let Some(registry) = &self.registry else { return Ok(Vec::new()) };
        let uri = match &self.advertise {
            Some(uri) => Uri::parse(uri)?,
            None if is_unspecified(local) => {
                return Err(RpcError::invalid(format!(
                    "{local} is no address that a consumer can connect to; \
                     name one with `advertise(\"{}://host:port\")`",
                    local.scheme()
                )));
            }
            None => local.clone(),
        };
        let outside = match uri.scheme() {
            "memory" if !registry.uri().starts_with("memory:") => Some("process"),
            "unix"
                if !["memory:", "file:"].iter().any(|local| registry.uri().starts_with(local)) =>
            {
                Some("machine")
            }
            _ => None,
        };
        if let Some(place) = outside {
            return Err(RpcError::invalid(format!(
                "{uri} leads nowhere outside of this {place}, so it is not announced in {}",
                registry.uri()
            )));
        }
        let instance = |service: &Arc<dyn Service>| {
            let key = service.descriptor().key();
            let mut instance = Instance::new(key.name(), uri.as_str())
                .with_version(key.version())
                .with_group(key.group())
                .with_weight(self.weight);
            for (name, value) in &self.metadata {
                instance = instance.with_metadata(name, value);
            }
            instance
        };
        Ok(self.services.iter().map(instance).collect())
    }
}

/// What there is to listen on.
enum Bound {
    Here(Listener),
    /// One for each loop.
    OnLoops(Vec<BoundSocket>),
}

impl Bound {
    async fn new(
        uri: &Uri,
        event_loops: Option<usize>,
        settings: &ListenSettings,
    ) -> Result<Self, RpcError> {
        let loops = match event_loops {
            None => return transport::listen(uri, settings).await.map(Self::Here),
            Some(0) => thread::available_parallelism().map_or(1, NonZero::get),
            Some(loops) => loops,
        };
        transport::bind_several(uri, loops, settings).await.map(Self::OnLoops)
    }

    /// `asked` is what was to be bound.
    fn local_uri<'u>(&'u self, asked: &'u Uri) -> &'u Uri {
        match self {
            Self::Here(listener) => listener.local_uri(),
            Self::OnLoops(sockets) => sockets.first().map_or(asked, BoundSocket::local_uri),
        }
    }

    async fn accept(
        self,
        acceptor: &Arc<Acceptor>,
        stopped: &watch::Receiver<bool>,
        settings: &ListenSettings,
    ) -> Result<Accepting, RpcError> {
        let run = |listener| Arc::clone(acceptor).run(listener, stopped.clone());
        match self {
            Self::Here(listener) => Ok(Accepting::Here(tokio::spawn(run(listener)))),
            Self::OnLoops(sockets) => {
                let service = |socket: BoundSocket| {
                    let (acceptor, stopped) = (Arc::clone(acceptor), stopped.clone());
                    let settings = settings.clone();
                    move || Ok(acceptor.run(socket.into_listener(&settings)?, stopped))
                };
                let services = sockets.into_iter().map(service).collect();
                EventLoops::start(services).await.map(Accepting::OnLoops)
            }
        }
    }
}

async fn announce(
    registry: &dyn Registry,
    instance: Instance,
) -> Result<rpc_registry::Lease, RpcError> {
    let name = instance.service().to_owned();
    registry.register(instance).await.map_err(|error| {
        RpcError::unavailable(format!("cannot announce {name} in {}: {error}", registry.uri()))
            .with_source(&error)
    })
}

/// `0.0.0.0` or `::`: all addresses of this machine.
fn is_unspecified(uri: &Uri) -> bool {
    let host = uri.rest().rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}
