//! [`NameServerBuilder`]: settings, and the check of the listen address.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use rpc_runtime::ServerTls;
use rpc_runtime::{Heartbeat, RpcError, Server};

use super::name_server::{NameServer, Reload};
use super::policy_file::PolicyFile;
use super::quota::Quota;
use super::service::NameServiceProvider;
use super::table::Table;
use crate::address::{is_on_network, scheme};
use crate::contract::{HEARTBEAT, NameServiceServer};

/// Maximum payload of a list that a server sends.
const MAX_PAYLOAD: usize = 16 << 20;

/// Calls and streams of one connection: a consumer has a stream for each service that it follows.
/// Their memory counts within [`NameServerBuilder::max_bytes`].
const MAX_STREAMS: usize = 65_536;
/// The same for all connections. High enough that `max_bytes` is reached first.
const MAX_ALL_STREAMS: usize = 1 << 20;
/// Connections from one address. A client has two to each server.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 4_096;

/// Settings of a [`NameServer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct NameServerBuilder {
    grace: Duration,
    scan: Duration,
    max_bytes: usize,
    max_connections: Option<usize>,
    max_connections_per_address: usize,
    quota: Quota,
    policy: Option<PathBuf>,
    insecure: bool,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

impl Default for NameServerBuilder {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(35),
            scan: Duration::from_secs(5),
            max_bytes: 256 << 20,
            max_connections: None,
            max_connections_per_address: MAX_CONNECTIONS_PER_ADDRESS,
            quota: Quota::default(),
            policy: None,
            insecure: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl NameServer {
    /// The settings of a new server.
    pub fn builder() -> NameServerBuilder {
        NameServerBuilder::default()
    }
}

impl NameServerBuilder {
    /// Sets the grace period after the start. Default 35 s, slightly more than the renewal interval
    /// of providers; at most a day.
    ///
    /// Providers need this time to register with a restarted server. During it, the server does not
    /// answer that an unknown service has no providers, but that it is starting; clients then ask
    /// another server or use the list they have. Zero is for tests and for the very first start.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(Duration::from_secs(86_400));
        self
    }

    /// Sets how often expired sessions are removed. Default 5 s; at least 100 ms.
    pub fn scan_interval(mut self, interval: Duration) -> Self {
        self.scan = interval.max(Duration::from_millis(100));
        self
    }

    /// Sets the maximum memory of all registrations, sessions and streams, estimated, in bytes.
    /// Default 256 MiB; an instance counts as about 1,000 bytes. Requests beyond it are refused as
    /// full.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the limits of one client. Default: see [`Quota`].
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = quota;
        self
    }

    /// Maximum connections, see
    /// [`ServerBuilder::max_connections`](rpc_runtime::ServerBuilder::max_connections).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections);
        self
    }

    /// Maximum connections from one IP address, see
    /// [`ServerBuilder::max_connections_per_address`](rpc_runtime::ServerBuilder::max_connections_per_address).
    /// Default 4,096, a quarter of all.
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.max_connections_per_address = connections;
        self
    }

    /// Sets the certificate of the server, which then listens only at `tls://host:port`. With
    /// [`client_roots_pem_file`](ServerTls::client_roots_pem_file), clients need a certificate as
    /// well and are identified by its names.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the policy file with the rights of clients. It is read again when it changes; its
    /// format is in [the crate's documentation](crate#who-may-do-what). Default: every client may
    /// register and read everything, and remove its own registrations.
    pub fn policy_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.policy = Some(path.into());
        self
    }

    /// Allows network addresses without authentication, where every client can register anything.
    /// Default: without authentication, only loopback addresses, `unix:` and `memory:` are allowed.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Listens on `uri`, of any transport of `rpc-runtime`, and starts serving.
    ///
    /// # Errors
    ///
    /// The URI is invalid or not allowed without authentication, the policy file cannot be read or
    /// is invalid, the address is in use, or there is no tokio runtime.
    pub async fn bind(self, uri: impl AsRef<str>) -> Result<NameServer, RpcError> {
        let uri = uri.as_ref();
        self.check_exposure(uri)?;
        let policy = match &self.policy {
            Some(path) => PolicyFile::read(path, self.quota)?,
            None => PolicyFile::open(self.quota),
        };
        let table = Arc::new(Table::new(self.grace, self.max_bytes, policy));
        let mut server = Server::builder()
            .provide(NameServiceServer::new(NameServiceProvider::new(Arc::clone(&table))))
            .max_payload(MAX_PAYLOAD)
            .max_concurrent_requests(MAX_STREAMS)
            .max_total_concurrent_requests(MAX_ALL_STREAMS)
            .max_connections_per_address(self.max_connections_per_address)
            .heartbeat(Heartbeat::default().interval(HEARTBEAT));
        if let Some(connections) = self.max_connections {
            server = server.max_connections(connections);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.clone() {
            server = server.tls(tls);
        }
        let server = server.bind(uri).await?;
        if self.insecure {
            tracing::warn!(
                uri = server.local_uri(),
                "serving without authentication of clients (`insecure`)"
            );
        }
        let reload = Reload::new(
            Arc::clone(&table),
            #[cfg(feature = "tls")]
            self.tls,
        );
        Ok(NameServer::start(server, table, reload, self.scan))
    }

    /// Checks that the server may listen on this address.
    fn check_exposure(&self, uri: &str) -> Result<(), RpcError> {
        let is_tls = scheme(uri) == "tls";
        if self.has_tls() && !is_tls {
            return Err(RpcError::invalid(format!(
                "the name server has a certificate, so it listens at tls://host:port, and not at \
                 {uri}"
            )));
        }
        let is_authenticated = is_tls && (self.asks_for_certificates() || self.policy.is_some());
        if is_authenticated || self.insecure || !is_on_network(uri) {
            return Ok(());
        }
        Err(RpcError::invalid(format!(
            "{uri} can be reached from other machines, and any client there could register \
             anything: listen at tls:// and require certificates (--cert, --key, --client-ca) or \
             tokens (--policy) of clients, or listen at a loopback address such as \
             tcp://127.0.0.1:9876, or say --insecure"
        )))
    }

    #[cfg(feature = "tls")]
    fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    fn has_tls(&self) -> bool {
        false
    }

    #[cfg(feature = "tls")]
    fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(ServerTls::requires_client_certificates)
    }

    #[cfg(not(feature = "tls"))]
    fn asks_for_certificates(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_authentication_it_listens_on_this_machine_only() {
        let error = NameServer::builder().bind("tcp://0.0.0.0:0").await.map(drop).unwrap_err();
        assert!(error.to_string().contains("--insecure"), "{error}");
        // Tokens sent unencrypted do not authenticate.
        let file = tempfile::NamedTempFile::new().unwrap();
        let with_policy = NameServer::builder().policy_file(file.path());
        assert!(with_policy.bind("tcp://0.0.0.0:0").await.is_err());
        assert!(NameServer::builder().bind("tcp://127.0.0.1:0").await.is_ok());
        assert!(NameServer::builder().insecure().bind("tcp://0.0.0.0:0").await.is_ok());
    }
}
