//! [`NameServer`]: one server, with a table of its own in memory.
//!
//! | file | what |
//! | --- | --- |
//! | [`desk`] | the contract, and who is told what |
//! | [`table`] | what sessions and consumers can do |
//! | [`state`] | who is registered, and by which session |
//! | [`listed`] | one service of the table |
//! | [`leases`] | when each session was last heard of |

mod desk;
mod leases;
mod listed;
mod state;
mod table;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rpc_runtime::{Heartbeat, RpcError, Server};
use tokio::task::AbortHandle;

use self::desk::Desk;
use self::table::Table;
use crate::contract::NameServiceServer;

/// Largest list, and largest report of a provider that is not this crate's.
pub(crate) const MAX_PAYLOAD: usize = 32 << 20;
/// Calls and streams of one connection: a consumer has a stream for each service that it follows. What
/// they take counts as a part of [`NameServerBuilder::max_bytes`].
const MAX_STREAMS: usize = 65_536;
/// How soon a connection that was cut without a sign is asked whether it is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// A name server. It keeps what providers register in memory, and knows nothing of other servers.
///
/// Dropping it ends it at once.
///
/// ```
/// use rpc_nameserver::NameServer;
///
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let server = NameServer::builder().grace(std::time::Duration::ZERO).bind("tcp://127.0.0.1:0").await?;
/// let place = server.local_uri().replace("tcp://", "nameserver://");
///
/// rpc_nameserver::register_scheme()?;
/// let registry = rpc_registry::connect(format!("{place}?cache=off")).await?;
/// assert!(registry.lookup("HelloService").await?.is_empty());
/// server.shutdown().await?;
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(demo()).unwrap();
/// ```
pub struct NameServer {
    server: Server,
    table: Arc<Table>,
    scan: AbortHandle,
}

/// Settings of a [`NameServer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct NameServerBuilder {
    grace: Duration,
    scan: Duration,
    max_bytes: usize,
    max_connections: Option<usize>,
}

impl NameServer {
    /// Settings of a new server.
    pub fn builder() -> NameServerBuilder {
        NameServerBuilder {
            grace: Duration::from_secs(35),
            scan: Duration::from_secs(5),
            max_bytes: 256 << 20,
            max_connections: None,
        }
    }

    /// Where it listens; a port 0 that it was given is the real port here.
    pub fn local_uri(&self) -> &str {
        self.server.local_uri()
    }

    /// Serves until `signal` is ready, and then [shuts down](Self::shutdown). A second SIGINT or
    /// SIGTERM ends it at once.
    ///
    /// # Errors
    ///
    /// Those of [`Server::serve_until`].
    pub async fn serve_until(self, signal: impl Future) -> Result<(), RpcError> {
        let Self { server, table, scan } = self;
        let _scan = AbortOnDrop(scan);
        let stopped = async {
            signal.await;
            // Those who attend and follow go elsewhere; they would be waited for.
            table.close();
        };
        server.serve_until(stopped).await
    }

    /// Ends all sessions and streams, so that clients go to other servers, and then the connections.
    ///
    /// # Errors
    ///
    /// Those of [`Server::shutdown`].
    pub async fn shutdown(self) -> Result<(), RpcError> {
        let _scan = AbortOnDrop(self.scan);
        self.table.close();
        self.server.shutdown().await
    }
}

/// Dropped, it ends the task.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl NameServerBuilder {
    /// For how long after its start the server must not say that nobody provides a service of which
    /// it does not know: providers of a server that was started anew need that long to register. It
    /// answers that it is starting then, and clients ask another one or use what they know. Default
    /// 35 s, an interval of providers and a bit; at most a day. Zero is for tests, and for the very
    /// first start.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(Duration::from_secs(86_400));
        self
    }

    /// How often sessions are removed that were not renewed. Default 5 s; at least 100 ms.
    pub fn scan_interval(mut self, interval: Duration) -> Self {
        self.scan = interval.max(Duration::from_millis(100));
        self
    }

    /// How many bytes all registrations, sessions and streams may take, roughly; an instance counts
    /// as some 600. Default 256 MiB. What is more is refused.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Connections at a time, see [`ServerBuilder::max_connections`](rpc_runtime::ServerBuilder::max_connections).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections);
        self
    }

    /// Listens on `uri`, of any transport of `rpc-runtime`, and starts to serve.
    ///
    /// # Errors
    ///
    /// The URI is invalid, the address in use, or there is no tokio runtime.
    pub async fn bind(self, uri: impl AsRef<str>) -> Result<NameServer, RpcError> {
        let table = Arc::new(Table::new(self.grace, self.max_bytes));
        let mut server = Server::builder()
            .provide(NameServiceServer::new(Desk(Arc::clone(&table))))
            .max_payload(MAX_PAYLOAD)
            .max_concurrent_requests(MAX_STREAMS)
            .heartbeat(Heartbeat::default().interval(HEARTBEAT));
        if let Some(connections) = self.max_connections {
            server = server.max_connections(connections);
        }
        let server = server.bind(uri).await?;
        let scan = tokio::spawn(scan(Arc::clone(&table), self.scan)).abort_handle();
        Ok(NameServer { server, table, scan })
    }
}

async fn scan(table: Arc<Table>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let expired = table.expire();
        if expired > 0 {
            tracing::warn!(expired, "sessions of providers were not renewed; they are removed");
        }
    }
}
