//! [`NodeSession`]: the node of one registration.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use zookeeper_client::{Client, CreateMode, Error, MultiReadResult, MultiWriteError, Stat};

use super::data;
use super::failure::is_lost;
use super::paths::NodePath;
use super::sessions::{Connection, Sessions};
use crate::back_end::{Claim, Session};
use crate::random::random_u64;
use crate::{BoxFuture, Instance, RegistryError, limited};

/// Maximum retries after concurrent changes.
const ATTEMPTS: u32 = 64;
/// Epochs between two transactions, for attempts to register again.
const AGAIN: u64 = 4096;
/// Maximum attempts to remove a node while its session lives.
const REMOVALS: u32 = 20;

/// A registration that may exist. It is removed when this is dropped.
pub(super) struct NodeSession {
    sessions: Arc<Sessions>,
    connection: Connection,
    place: NodePath,
    /// Distinguishes it from other registrations at the same path.
    registration: String,
    gone: bool,
}

impl NodeSession {
    pub(super) fn new(sessions: &Arc<Sessions>, connection: &Connection, place: NodePath) -> Self {
        let registration = format!("{:016x}", random_u64());
        let (sessions, connection) = (Arc::clone(sessions), connection.clone());
        Self { sessions, connection, place, registration, gone: false }
    }

    /// Creates the node and returns the instance with its epoch. A predecessor is removed in the
    /// same transaction, so that one of them is always visible.
    pub(super) async fn announce(
        &mut self,
        instance: Instance,
        claim: Claim,
    ) -> Result<Instance, RegistryError> {
        for _ in 0..ATTEMPTS {
            let found = NodePair::read(&self.connection.client, &self.place).await;
            let found = found.map_err(|error| self.failed("read", error))?;
            let Some(service) = found.service else {
                self.make_parents().await.map_err(|error| self.failed("make", error))?;
                continue;
            };
            if let Some(holder) = &found.entry
                && (claim == Claim::New || !holder.is_older_than(&instance))
            {
                self.gone = true;
                return Err(self.taken(&instance, holder));
            }
            let instance = match claim {
                Claim::New => instance.clone().with_epoch(first_epoch(&instance, &service)),
                Claim::Again => instance.clone(),
            };
            match self.create(&instance, &service, found.entry.as_ref()).await? {
                Ok(()) => return Ok(instance),
                Err(error) if is_outdated(&error) => {}
                Err(error) => return Err(self.failed("make", error.into())),
            }
        }
        Err(self.failed("make", Error::BadVersion))
    }

    /// Each registration also sets the data of the service's node, whose version thereby counts
    /// registrations. The nodes of instances all have version 0, so that count distinguishes a
    /// registration from its successor.
    async fn create(
        &self,
        instance: &Instance,
        service: &Stat,
        older: Option<&ExistingNode>,
    ) -> Result<Result<(), MultiWriteError>, RegistryError> {
        let data = data::write(instance, &self.registration)
            .map_err(|error| error.with_registry(&self.sessions.settings.uri))?;
        let create = CreateMode::Ephemeral.with_acls(self.sessions.acls());
        let committed = async {
            let mut multi = self.connection.client.new_multi_writer();
            match older {
                Some(older) => {
                    multi.add_set_data(&self.place.service, &[], Some(service.version))?;
                    multi.add_delete(&self.place.entry, Some(older.stat.version))?;
                }
                None => multi.add_set_data(&self.place.service, &[], None)?,
            }
            multi.add_create(&self.place.entry, &data, &create)?;
            multi.commit().await.map(drop)
        };
        Ok(committed.await)
    }

    /// A service's node is a container: the server removes it some time after its last child.
    async fn make_parents(&self) -> Result<(), Error> {
        let client = &self.connection.client;
        let persistent = CreateMode::Persistent.with_acls(self.sessions.acls());
        client.mkdir(self.place.root.path(), &persistent).await?;
        let container = CreateMode::Container.with_acls(self.sessions.acls());
        match client.create(&self.place.service, &[], &container).await {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the node if it is still this registration's.
    async fn remove(&self) -> Result<(), Error> {
        let ours = |found: &ExistingNode| data::is_of(&found.data, &self.registration);
        remove_node(&self.connection.client, &self.place, ours).await.map(drop)
    }

    fn taken(&self, instance: &Instance, holder: &ExistingNode) -> RegistryError {
        let epoch = data::epoch(&holder.data).unwrap_or_default();
        RegistryError::already_exists(format!(
            "the instance {:?} of {:?} is registered, with epoch {epoch}",
            instance.id(),
            instance.service()
        ))
        .with_registry(&self.sessions.settings.uri)
        .with_hint(
            "give each provider its own id, or end the other one first; one that was killed is \
             listed until its session expires",
        )
    }

    fn failed(&self, what: &str, error: Error) -> RegistryError {
        self.sessions.failed(format!("cannot {what} the node {}", self.place.entry), error)
    }
}

impl Session for NodeSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let patience = self.sessions.settings.timeout;
            let removing = async {
                loop {
                    match self.connection.connected(patience).await {
                        // Removed with its session.
                        Err(Error::SessionExpired) => return Ok(()),
                        connected => connected?,
                    }
                    match self.remove().await {
                        Err(error) if is_lost(&error) => {}
                        Err(Error::SessionExpired | Error::ClientClosed) => return Ok(()),
                        removed => return removed,
                    }
                }
            };
            match timeout(patience, removing).await {
                Ok(removed) => removed.map_err(|error| self.failed("remove", error))?,
                Err(_) => return Err(self.sessions.too_late("deregister")),
            }
            self.gone = true;
            Ok(())
        })
    }

    /// The node is removed when this is dropped.
    fn abandon(&mut self) {}
}

impl Drop for NodeSession {
    fn drop(&mut self) {
        if self.gone || self.connection.client.state().is_terminated() {
            return;
        }
        let entry = Self {
            sessions: Arc::clone(&self.sessions),
            connection: self.connection.clone(),
            place: self.place.clone(),
            registration: self.registration.clone(),
            // Otherwise this would recurse if the runtime has ended.
            gone: true,
        };
        self.sessions.runtime.spawn(entry.remove_at_last());
    }
}

impl NodeSession {
    /// The session continues for other registrations, so the node would stay.
    async fn remove_at_last(self) {
        let mut pause = Duration::from_millis(100);
        for _ in 0..REMOVALS {
            // A disconnected session is connected again or ends.
            if self.connection.connected(Duration::from_secs(3600)).await.is_err() {
                return;
            }
            match self.remove().await {
                Ok(()) => return,
                Err(error) if self.connection.client.state().is_terminated() => {
                    tracing::debug!(entry = self.place.entry, %error, "gone with its session");
                    return;
                }
                Err(error) => {
                    let entry = &self.place.entry;
                    limited!(warn, entry, %error, "a registration is not removed yet");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        // Other registrations keep the session alive, and thereby the node.
        limited!(warn, entry = self.place.entry, "a registration stays until its session ends");
    }
}

/// A node that exists.
pub(super) struct ExistingNode {
    data: Vec<u8>,
    stat: Stat,
}

impl ExistingNode {
    /// A node that cannot be read belongs to no provider.
    fn is_older_than(&self, instance: &Instance) -> bool {
        data::epoch(&self.data).is_none_or(|epoch| epoch < instance.epoch())
    }
}

/// The nodes of a service and an instance.
#[derive(Default)]
struct NodePair {
    service: Option<Stat>,
    entry: Option<ExistingNode>,
}

impl NodePair {
    async fn read(client: &Client, place: &NodePath) -> Result<Self, Error> {
        let mut reader = client.new_multi_reader();
        reader.add_get_data(&place.service)?;
        reader.add_get_data(&place.entry)?;
        // This server may be behind the one that has just refused.
        let caught_up = client.sync(&place.service);
        let read = reader.commit();
        caught_up.await?;
        let mut found = Self::default();
        for (at, result) in read.await?.into_iter().enumerate() {
            match (at, result) {
                (0, MultiReadResult::Data { stat, .. }) => found.service = Some(stat),
                (_, MultiReadResult::Data { data, stat }) => {
                    found.entry = Some(ExistingNode { data, stat });
                }
                (_, MultiReadResult::Error { err: Error::NoNode }) => {}
                (_, MultiReadResult::Error { err }) => return Err(err),
                _ => return Err(Error::UnexpectedError("another answer than data".to_owned())),
            }
        }
        Ok(found)
    }
}

/// Removes a node, if `is_meant` matches it, as an orderly departure: its data is emptied in the
/// same transaction, which watches receive. Returns whether it existed.
pub(super) async fn remove_node(
    client: &Client,
    place: &NodePath,
    is_meant: impl Fn(&ExistingNode) -> bool,
) -> Result<bool, Error> {
    for _ in 0..ATTEMPTS {
        let found = NodePair::read(client, place).await?;
        let entry = found.entry.filter(&is_meant);
        let Some((service, entry)) = found.service.zip(entry) else { return Ok(false) };
        let mut multi = client.new_multi_writer();
        multi.add_check_version(&place.service, service.version)?;
        multi.add_set_data(&place.entry, data::LEFT, Some(entry.stat.version))?;
        multi.add_delete(&place.entry, None)?;
        match multi.commit().await {
            Ok(_) => return Ok(true),
            Err(error) if is_outdated(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::BadVersion)
}

/// A later registration of a service has a later transaction number. The numbers leave room for the
/// epochs of attempts to register again.
fn first_epoch(instance: &Instance, service: &Stat) -> u64 {
    let transaction = u64::try_from(service.pzxid).unwrap_or_default();
    instance.epoch().max(transaction.saturating_mul(AGAIN))
}

/// Whether a node has changed since it was read.
fn is_outdated(error: &MultiWriteError) -> bool {
    let source = match error {
        MultiWriteError::OperationFailed { source, .. } => source,
        MultiWriteError::RequestFailed { .. } => return false,
    };
    matches!(source, Error::NoNode | Error::NodeExists | Error::BadVersion)
}
