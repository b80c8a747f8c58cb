//! A registry in a [ZooKeeper](https://zookeeper.apache.org) ensemble, version 3.6 or newer; feature
//! `zookeeper`.
//!
//! `zookeeper://[user:password@]host:port,host:port/root` names one or more servers of the
//! ensemble. One is used until it fails, then another. The default port is 2181. The default root
//! is `/rpc-registry`; a missing root is created.
//!
//! | parameter | value |
//! | --- | --- |
//! | `lease=` | time after its last heartbeat when a provider is removed (ZooKeeper's session timeout), 100ms to 10m, default 10s; servers allow 2 to 20 of their ticks |
//! | `request_timeout=` | timeout of a request, including connecting and failover to another server, 100ms to 10m, default 5s |
//! | `insecure=1` | allows user and password to servers on other machines; everyone on the path can read them. Refused otherwise |
//! | `acl=open` | confirms that every client may change the nodes, for a URI without a user; otherwise a warning is logged, unless the servers are on this machine |
//!
//! and those of [`ResilientSettings::from_uri`]. No request is sent before the first operation, so
//! a program can start without ZooKeeper, from its cache. Connections are not encrypted. If they
//! leave the machine, use a tunnel (stunnel, the proxy of a service mesh) and put its local end
//! into the URI.
//!
//! # Nodes
//!
//! `<root>/<service>/<id>` is an ephemeral node that contains the instance as JSON. Service and id
//! are percent-encoded, except for letters, digits, `-`, `_`, `~` and dots that are not the first
//! character. Services are container nodes, which the servers remove some time after their last
//! instance. Nodes without a valid instance are skipped, with a warning in the log.
//!
//! With a user and a password (ZooKeeper's scheme `digest`), all nodes are created for that user
//! only (an ACL of the scheme `auth`). Without them, every client may change the nodes.
//! Existing nodes keep their ACL. The creator of the root or of a service's node controls access to
//! the nodes below it, so create the root by hand if other clients can reach ZooKeeper. A warning in
//! the log names the root or a service's node if every client may change it.
//!
//! # Guarantees
//!
//! - Lookups reflect every registration and removal that has returned, whichever servers were used.
//! - A registry uses one session, which a task renews at less than a third of its timeout. If the
//!   session expires, a new one replaces it, and all instances are registered again.
//! - A registration is lost when the servers report that its session has expired, or when no server
//!   could be reached for 1.4 times the session's timeout.
//! - A registration is written only if there is none, or in place of one with an older epoch, and
//!   removed only by its writer or by an administrator. The epoch of a registration is ZooKeeper's
//!   transaction number times 4096, and each attempt to register again adds one. So a provider that
//!   took over an id is not displaced by its predecessor.
//! - A provider that died is removed when its session expires, with the precision of a tick. After
//!   a restart of the ensemble, the timeout of all sessions begins again.
//! - An orderly departure changes the data of the node in the transaction that removes it. Watches
//!   receive both events, which distinguishes it from an expiration.
//! - A dead connection is detected after two fifths of the shorter of the two timeouts. After a
//!   disconnection, a watch reads the whole list again.
//!
//! ```no_run
//! # async fn demo() -> Result<(), rpc_registry::RegistryError> {
//! let registry = rpc_registry::connect("zookeeper://10.0.0.1,10.0.0.2/shop").await?;
//! # Ok(()) }
//! ```

mod data;
mod failure;
mod feed;
#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod node_session;
mod ownership;
mod paths;
mod pending;
mod sessions;
mod settings;

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use zookeeper_client::Error;

use self::feed::ServiceFeed;
use self::node_session::{NodeSession, remove_node};
use self::paths::NodePath;
use self::sessions::{Connection, Sessions};
use self::settings::{OpenAccess, Settings};
use crate::back_end::{Announcement, BackEnd, Claim, Feed};
use crate::backends::bounded_instances::BoundedInstances;
use crate::{
    BoxFuture, Instance, RegistryError, RegistryUri, Resilient, ResilientSettings, limited,
};

/// The back end of the scheme `zookeeper`; see [`connect`](crate::connect).
///
/// Its tasks run in the tokio runtime in which it was made.
pub struct ZooKeeperBackEnd {
    sessions: Arc<Sessions>,
}

/// The registry that a `zookeeper:` URI names.
pub(crate) async fn connect(
    uri: RegistryUri,
) -> Result<Resilient<ZooKeeperBackEnd>, RegistryError> {
    Resilient::new(ZooKeeperBackEnd::new(&uri)?, ResilientSettings::from_uri(&uri)?).await
}

impl ZooKeeperBackEnd {
    /// Reads the URI. Sends no request.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`; `is_unavailable` outside of a tokio runtime.
    pub fn new(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let settings = Settings::from_uri(uri)?;
        let runtime = Handle::try_current().map_err(|error| {
            RegistryError::unavailable("a registry in ZooKeeper needs a tokio runtime")
                .with_registry(uri.as_str())
                .with_source(error)
        })?;
        if settings.open == OpenAccess::Unconfirmed {
            let registry = &settings.uri;
            limited!(
                warn,
                registry,
                "every client of ZooKeeper may change what is registered there: name a user and a \
                 password in the URI, or say acl=open"
            );
        }
        Ok(Self { sessions: Arc::new(Sessions::new(settings, runtime)) })
    }

    fn place(&self, service: &str, id: &str) -> NodePath {
        NodePath::new(&self.sessions.settings.root, service, id)
    }

    async fn check_ownership(&self, connection: &Connection, service: &str) {
        let service = self.sessions.settings.root.service(service);
        ownership::check(&self.sessions, connection, &service).await;
    }

    fn failed(&self, what: &str, path: &str, error: Error) -> RegistryError {
        self.sessions.failed(format!("cannot {what} the node {path}"), error)
    }
}

impl BackEnd for ZooKeeperBackEnd {
    fn uri(&self) -> &str {
        &self.sessions.settings.uri
    }

    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>> {
        Box::pin(self.sessions.within("register", async move {
            let connection = self.sessions.connected().await?;
            let place = self.place(instance.service(), instance.id());
            let lost = connection.ended();
            // Created first, so that it is removed in any case.
            let mut entry = NodeSession::new(&self.sessions, &connection, place);
            let instance = entry.announce(instance, claim).await?;
            self.check_ownership(&connection, instance.service()).await;
            let sessions = Arc::clone(&self.sessions);
            let lost = async move { sessions.failed("the session has ended", lost.await) };
            Ok(Announcement { instance, lost: Box::pin(lost), session: Box::new(entry) })
        }))
    }

    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(self.sessions.within("look up", async move {
            let connection = self.sessions.connected().await?;
            let path = self.sessions.settings.root.service(service);
            let listed =
                feed::list(&connection.client, service, &path, &BoundedInstances::new()).await;
            let listed = listed.map_err(|error| self.failed("read", &path, error))?;
            Ok(listed.instances())
        }))
    }

    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(self.sessions.within("follow the service", async move {
            let connection = self.sessions.connected().await?;
            self.check_ownership(&connection, service).await;
            let feed = ServiceFeed::open(&self.sessions, connection, service).await?;
            Ok(Box::new(feed) as Box<dyn Feed>)
        }))
    }

    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(self.sessions.within("remove", async move {
            let connection = self.sessions.connected().await?;
            let place = self.place(service, instance_id);
            let removed = remove_node(&connection.client, &place, |_| true).await;
            removed.map_err(|error| self.failed("remove", &place.entry, error))
        }))
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(self.sessions.within("list the services", async move {
            let connection = self.sessions.connected().await?;
            let root = self.sessions.settings.root.path();
            let names = feed::services(&connection.client, root).await;
            names.map_err(|error| self.failed("read", root, error))
        }))
    }
}

impl fmt::Debug for ZooKeeperBackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperBackEnd").field("uri", &self.uri()).finish_non_exhaustive()
    }
}
