//! [`Sessions`]: the ZooKeeper session of a registry, and a new one when it has ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use zookeeper_client::{Acls, Client, Error, SessionState, StateWatcher};

use super::failure::failed;
use super::settings::Settings;
use crate::RegistryError;

pub(super) struct Sessions {
    pub(super) settings: Settings,
    /// The runtime of the tasks.
    pub(super) runtime: Handle,
    current: Mutex<Option<Connection>>,
}

/// A session of ZooKeeper, which may be disconnected. It ends with its last clone.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    away_since: Arc<crate::sync::Mutex<Option<Instant>>>,
}

impl Sessions {
    pub(super) fn new(settings: Settings, runtime: Handle) -> Self {
        Self { settings, runtime, current: Mutex::new(None) }
    }

    /// Limits an operation to the timeout.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        done: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        timeout(self.settings.timeout, done).await.unwrap_or_else(|_| Err(self.too_late(what)))
    }

    pub(super) fn too_late(&self, what: &str) -> RegistryError {
        RegistryError::timeout(format!(
            "cannot {what}: no answer from {} within {:?}",
            self.settings.servers, self.settings.timeout
        ))
        .with_registry(&self.settings.uri)
        .with_hint("check that these are ZooKeeper servers and a majority of them runs")
    }

    pub(super) fn failed(&self, what: impl Into<String>, error: Error) -> RegistryError {
        failed(what, error, &self.settings.uri)
    }

    /// With a user, all rights for that user alone; otherwise for every client.
    pub(super) fn acls(&self) -> Acls<'static> {
        match self.settings.digest {
            Some(_) => Acls::creator_all(),
            None => Acls::anyone_all(),
        }
    }

    /// The current session, or a new one.
    pub(super) async fn connected(&self) -> Result<Connection, RegistryError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current
            && !connection.client.state().is_terminated()
        {
            let connection = connection.clone();
            drop(current);
            let connected = connection.connected(self.settings.timeout).await;
            return connected.map(|()| connection).map_err(|error| self.away(error));
        }
        let connection = self.connect().await?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, RegistryError> {
        let mut connector = Client::connector()
            .with_session_timeout(self.settings.session_timeout)
            .with_connection_timeout(self.settings.silence())
            .with_fail_eagerly();
        if let Some(digest) = &self.settings.digest {
            connector = connector.with_auth("digest", digest.as_bytes());
        }
        let servers = self.settings.servers.clone();
        let connecting = self.runtime.spawn(async move { connector.connect(&servers).await });
        let stop = connecting.abort_handle();
        let connected = timeout(self.settings.timeout, connecting).await;
        let client = match connected {
            Ok(Ok(connected)) => connected.map_err(|error| self.away(error))?,
            Ok(Err(_)) => return Err(self.away(Error::ClientClosed)),
            Err(_) => {
                stop.abort();
                return Err(self.too_late("connect"));
            }
        };
        let away_since = Arc::default();
        self.runtime.spawn(note_absence(client.state_watcher(), Arc::clone(&away_since)));
        Ok(Connection { client, away_since })
    }

    fn away(&self, error: Error) -> RegistryError {
        self.failed(format!("cannot connect to {}", self.settings.servers), error)
    }
}

impl Connection {
    /// Waits until the session is connected, at most for `patience` since it was disconnected.
    /// Without this, any number of requests would wait in the client without a limit.
    pub(super) async fn connected(&self, patience: Duration) -> Result<(), Error> {
        let mut states = self.client.state_watcher();
        loop {
            match self.client.state() {
                SessionState::SyncConnected => return Ok(()),
                SessionState::AuthFailed => return Err(Error::AuthFailed),
                state if state.is_terminated() => return Err(Error::SessionExpired),
                _ => {}
            }
            let away_since = *self.away_since.lock();
            let until = away_since.unwrap_or_else(Instant::now) + patience;
            timeout_at(until, states.changed()).await.map_err(|_| Error::ConnectionLoss)?;
        }
    }

    /// Completes with the reason when the session has ended.
    pub(super) fn ended(&self) -> impl Future<Output = Error> + Send + use<> {
        let mut states = self.client.state_watcher();
        let mut state = self.client.state();
        async move {
            while !state.is_terminated() {
                state = states.changed().await;
            }
            match state {
                SessionState::AuthFailed => Error::AuthFailed,
                SessionState::Closed => Error::ClientClosed,
                _ => Error::SessionExpired,
            }
        }
    }
}

async fn note_absence(
    mut states: StateWatcher,
    away_since: Arc<crate::sync::Mutex<Option<Instant>>>,
) {
    let mut state = states.state();
    while !state.is_terminated() {
        let since = (state != SessionState::SyncConnected).then(Instant::now);
        *away_since.lock() = since;
        state = states.changed().await;
    }
}
