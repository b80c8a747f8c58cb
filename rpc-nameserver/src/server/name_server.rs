//! [`NameServer`]: a running server, and its background tasks.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use rpc_runtime::ServerTls;
use rpc_runtime::{RpcError, Server};
use tokio::task::JoinSet;

use super::audit::Action;
use super::table::Table;

/// How often the policy file is checked. A changed file is applied at the second check.
const POLICY_CHECK: Duration = Duration::from_secs(2);

/// A name server. It keeps registrations in memory and does not know of other servers.
///
/// Dropping it ends the server at once.
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
    reload: Reload,
    /// Background tasks. Aborted when dropped.
    tasks: JoinSet<()>,
}

impl NameServer {
    pub(super) fn start(
        server: Server,
        table: Arc<Table>,
        reload: Reload,
        scan_interval: Duration,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(remove_expired(Arc::clone(&table), scan_interval));
        tasks.spawn(watch_policy(reload.clone()));
        Self { server, table, reload, tasks }
    }

    /// The address it listens on, with the actual port instead of a port 0.
    pub fn local_uri(&self) -> &str {
        self.server.local_uri()
    }

    /// A handle that reloads the server's files, also while [`serve_until`](Self::serve_until) owns
    /// the server.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Serves until `signal` completes, and then [shuts down](Self::shutdown). A second SIGINT or
    /// SIGTERM ends it at once.
    ///
    /// # Errors
    ///
    /// Those of [`Server::serve_until`].
    pub async fn serve_until(self, signal: impl Future) -> Result<(), RpcError> {
        let Self { server, table, reload: _, tasks: _tasks } = self;
        let stopped = async {
            signal.await;
            // Ends the streams of sessions and consumers, which the shutdown would wait for.
            table.close();
        };
        server.serve_until(stopped).await
    }

    /// Ends all sessions and streams, so that clients go to other servers, and then the
    /// connections.
    ///
    /// # Errors
    ///
    /// Those of [`Server::shutdown`].
    pub async fn shutdown(self) -> Result<(), RpcError> {
        let _tasks = self.tasks;
        self.table.close();
        self.server.shutdown().await
    }
}

/// Reloads the files of a [`NameServer`]; see [`NameServer::reload`].
#[derive(Clone)]
pub struct Reload {
    table: Arc<Table>,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

impl Reload {
    pub(super) fn new(table: Arc<Table>, #[cfg(feature = "tls")] tls: Option<ServerTls>) -> Self {
        Self {
            table,
            #[cfg(feature = "tls")]
            tls,
        }
    }

    /// Reads the policy file, and the files of certificate, key and authorities again.
    ///
    /// Ends sessions of clients that are no longer known, and of clients with registrations that
    /// they may no longer make. A server applies a changed policy file by itself within 5 s;
    /// certificates are reloaded only by this method.
    ///
    /// Blocks the thread while it reads. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// A file cannot be read or is invalid. Its previous content stays in use. The other files are
    /// applied: an invalid policy must not let a certificate expire.
    pub fn now(&self) -> Result<(), RpcError> {
        let policy = self.policy();
        #[cfg(feature = "tls")]
        let tls = self.tls.as_ref().map_or(Ok(()), ServerTls::reload);
        #[cfg(not(feature = "tls"))]
        let tls = Ok(());
        match (policy, tls) {
            (Err(one), Err(other)) => Err(RpcError::invalid(format!("{one}; {other}"))),
            (policy, tls) => policy.and(tls),
        }
    }

    fn policy(&self) -> Result<(), RpcError> {
        self.table.policy.reload()?;
        for ended in self.table.revoke() {
            let table = Arc::clone(&self.table);
            tokio::spawn(async move { table.sweep(ended, Action::Revoke).await });
        }
        Ok(())
    }
}

/// Removes expired sessions.
async fn remove_expired(table: Arc<Table>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let expired = table.expire();
        if !expired.is_empty() {
            let expired = expired.len();
            tracing::warn!(expired, "sessions of providers were not renewed; they are removed");
        }
        for ended in expired {
            table.sweep(ended, Action::Expire).await;
        }
    }
}

/// Applies the policy file when it changes.
async fn watch_policy(reload: Reload) {
    loop {
        tokio::time::sleep(POLICY_CHECK).await;
        if reload.table.policy.has_changed()
            && let Err(error) = reload.policy()
        {
            tracing::error!(%error, "the new policy is not applied; the previous one stays in use");
        }
    }
}
