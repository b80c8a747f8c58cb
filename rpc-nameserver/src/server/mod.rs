//! [`NameServer`]: one server, with a table of its own in memory.
//!
//! | file | what |
//! | --- | --- |
//! | [`builder`] | settings, and where a server may listen |
//! | [`desk`] | the contract, and who is told what |
//! | [`table`], [`changes`], [`queries`] | what sessions and consumers can do |
//! | [`state`], [`entry`] | registrations, and their sessions |
//! | [`reports`], [`registration`] | reports and their registrations, decoded and checked |
//! | [`listed`], [`entries`], [`packed`] | one service of the table, its registrations, its list |
//! | [`leases`] | when each session was last heard of |
//! | [`identity`], [`policy`], [`policy_file`] | who a client is, and what it may do |
//! | [`quota`] | how much a client may have |
//! | [`audit`] | who has changed what, in the log |

mod audit;
mod builder;
mod changes;
mod desk;
mod entries;
mod entry;
mod identity;
mod leases;
mod listed;
mod packed;
mod policy;
mod policy_file;
mod queries;
mod quota;
mod registration;
mod reports;
mod state;
mod table;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use rpc_runtime::ServerTls;
use rpc_runtime::{RpcError, Server};
use tokio::task::AbortHandle;

use self::audit::Action;
pub use self::builder::NameServerBuilder;
pub(crate) use self::builder::{is_on_network, scheme};
pub(crate) use self::identity::AUTHORIZATION;
pub use self::quota::Quota;
use self::table::Table;

/// Maximum payload of a list that a server sends.
const MAX_PAYLOAD: usize = 16 << 20;
/// How soon a connection that was cut without a sign is asked whether it is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often the policy file is checked. A changed file is applied at the second check.
const POLICY_CHECK: Duration = Duration::from_secs(2);

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
    reload: Reload,
    tasks: [AbortOnDrop; 2],
}

impl NameServer {
    /// Settings of a new server.
    pub fn builder() -> NameServerBuilder {
        NameServerBuilder::default()
    }

    /// Where it listens; a port 0 that it was given is the real port here.
    pub fn local_uri(&self) -> &str {
        self.server.local_uri()
    }

    /// A handle that reloads the server's files, also while [`serve_until`](Self::serve_until) owns
    /// the server.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Serves until `signal` is ready, and then [shuts down](Self::shutdown). A second SIGINT or
    /// SIGTERM ends it at once.
    ///
    /// # Errors
    ///
    /// Those of [`Server::serve_until`].
    pub async fn serve_until(self, signal: impl Future) -> Result<(), RpcError> {
        let Self { server, table, reload: _, tasks: _tasks } = self;
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

/// Ends the task when dropped.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Removes expired sessions.
async fn scan(table: Arc<Table>, interval: Duration) {
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
