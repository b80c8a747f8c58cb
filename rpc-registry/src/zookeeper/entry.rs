//! [`Entry`]: the node of one registration, which ends with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use zookeeper_client::{Client, CreateMode, Error, MultiReadResult, MultiWriteError, Stat};

use super::data;
use super::failure::is_lost;
use super::paths::Place;
use super::sessions::{Connection, Sessions};
use crate::back_end::{Claim, Session};
use crate::instance::random_bits;
use crate::{BoxFuture, Instance, RegistryError, limited};

/// How often a change is tried again that others were faster than.
const ATTEMPTS: u32 = 64;
/// How many epochs there are between one transaction and the next.
const AGAIN: u64 = 4096;
/// How often an entry that is to go is tried to be removed while its session lives.
const REMOVALS: u32 = 20;

/// A registration that may be there. It is removed when this is dropped.
pub(super) struct Entry {
    sessions: Arc<Sessions>,
    connection: Connection,
    place: Place,
    /// What tells it from others at the same place.
    registration: String,
    gone: bool,
}

impl Entry {
    pub(super) fn new(sessions: &Arc<Sessions>, connection: &Connection, place: Place) -> Self {
        let registration = format!("{:016x}", random_bits());
        let (sessions, connection) = (Arc::clone(sessions), connection.clone());
        Self { sessions, connection, place, registration, gone: false }
    }

    /// Makes the node and returns the instance with its epoch. A predecessor goes in the same
    /// transaction, so that nobody ever sees neither.
    pub(super) async fn announce(
        &mut self,
        instance: Instance,
        claim: Claim,
    ) -> Result<Instance, RegistryError> {
        for _ in 0..ATTEMPTS {
            let found = Found::read(&self.connection.client, &self.place).await;
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

    /// Each registration sets the data of the service's node too, whose version thereby counts
    /// them. Entries are all of version 0, so it is this number that tells one from its successor.
    async fn create(
        &self,
        instance: &Instance,
        service: &Stat,
        older: Option<&Holder>,
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

    /// A service's node is a container: the server removes it some time after its last entry.
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
        let ours = |found: &Holder| data::is_of(&found.data, &self.registration);
        take_away(&self.connection.client, &self.place, ours).await.map(drop)
    }

    fn taken(&self, instance: &Instance, holder: &Holder) -> RegistryError {
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

impl Session for Entry {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let patience = self.sessions.settings.timeout;
            let removing = async {
                loop {
                    match self.connection.connected(patience).await {
                        // It has gone with its session.
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

    /// Dropping does it.
    fn abandon(&mut self) {}
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.gone || self.connection.client.state().is_terminated() {
            return;
        }
        let entry = Self {
            sessions: Arc::clone(&self.sessions),
            connection: self.connection.clone(),
            place: self.place.clone(),
            registration: self.registration.clone(),
            // Else it would come back here if the runtime has ended.
            gone: true,
        };
        self.sessions.runtime.spawn(entry.remove_at_last());
    }
}

impl Entry {
    /// The session goes on for others, so the node would stay with it.
    async fn remove_at_last(self) {
        let mut pause = Duration::from_millis(100);
        for _ in 0..REMOVALS {
            // A disconnected session becomes connected or ends.
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
        // Who goes on keeps the session alive, and thereby the entry.
        limited!(warn, entry = self.place.entry, "a registration stays until its session ends");
    }
}

/// An entry that somebody has.
pub(super) struct Holder {
    data: Vec<u8>,
    stat: Stat,
}

impl Holder {
    /// One that can't be read is nobody's.
    fn is_older_than(&self, instance: &Instance) -> bool {
        data::epoch(&self.data).is_none_or(|epoch| epoch < instance.epoch())
    }
}

/// What is at a place.
#[derive(Default)]
struct Found {
    service: Option<Stat>,
    entry: Option<Holder>,
}

impl Found {
    async fn read(client: &Client, place: &Place) -> Result<Self, Error> {
        let mut reader = client.new_multi_reader();
        reader.add_get_data(&place.service)?;
        reader.add_get_data(&place.entry)?;
        // The server asked may be behind the one that has just refused.
        let caught_up = client.sync(&place.service);
        let read = reader.commit();
        caught_up.await?;
        let mut found = Self::default();
        for (at, result) in read.await?.into_iter().enumerate() {
            match (at, result) {
                (0, MultiReadResult::Data { stat, .. }) => found.service = Some(stat),
                (_, MultiReadResult::Data { data, stat }) => {
                    found.entry = Some(Holder { data, stat });
                }
                (_, MultiReadResult::Error { err: Error::NoNode }) => {}
                (_, MultiReadResult::Error { err }) => return Err(err),
                _ => return Err(Error::UnexpectedError("another answer than data".to_owned())),
            }
        }
        Ok(found)
    }
}

/// Removes the entry at a place, if it is the one that is meant, as an orderly departure: its data
/// is emptied in the same transaction, which followers hear of. Says whether it was there.
pub(super) async fn take_away(
    client: &Client,
    place: &Place,
    is_meant: impl Fn(&Holder) -> bool,
) -> Result<bool, Error> {
    for _ in 0..ATTEMPTS {
        let found = Found::read(client, place).await?;
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

/// Later registrations of a service see a later transaction among its entries. There is room between
/// them for the epochs that attempts to register again have.
fn first_epoch(instance: &Instance, service: &Stat) -> u64 {
    let transaction = u64::try_from(service.pzxid).unwrap_or_default();
    instance.epoch().max(transaction.saturating_mul(AGAIN))
}

/// Whether it is no longer as it was when it was read.
fn is_outdated(error: &MultiWriteError) -> bool {
    let source = match error {
        MultiWriteError::OperationFailed { source, .. } => source,
        MultiWriteError::RequestFailed { .. } => return false,
    };
    matches!(source, Error::NoNode | Error::NodeExists | Error::BadVersion)
}
