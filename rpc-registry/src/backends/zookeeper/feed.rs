//! [`ServiceFeed`]: follows the entries of a service.

use std::future::ready;
use std::sync::Arc;

use tokio::time::{Instant, timeout, timeout_at};
use zookeeper_client::{AddWatchMode, Client, Error, MultiReadResult, PersistentWatcher};

use super::data;
use super::failure::is_lost;
use super::paths::{child, name, service_name};
use super::pending::PendingChanges;
use super::sessions::{Connection, Sessions};
use crate::back_end::{Feed, Update};
use crate::backends::bounded_instances::BoundedInstances;
use crate::{BoxFuture, RegistryError};

/// Maximum services per request. With this many paths of the longest names, a request stays below a
/// server's limit of 1 MiB.
const AT_ONCE: usize = 256;
/// Maximum nodes read per request: each can hold 1 MiB.
const READ_AT_ONCE: usize = 32;

/// A persistent recursive watch on a service's node, and the known entries. Events determine which
/// entries are read; after a disconnection all are read.
pub(super) struct ServiceFeed {
    sessions: Arc<Sessions>,
    connection: Connection,
    service: String,
    path: String,
    watcher: PersistentWatcher,
    pending: PendingChanges,
    known: BoundedInstances,
}

impl ServiceFeed {
    /// The watch begins here, so that no change is missed between the first list and the second.
    pub(super) async fn open(
        sessions: &Arc<Sessions>,
        connection: Connection,
        service: &str,
    ) -> Result<Self, RegistryError> {
        let path = sessions.settings.root.service(service);
        let watcher = watch(&connection.client, &path)
            .await
            .map_err(|error| sessions.failed(format!("cannot watch the node {path}"), error))?;
        Ok(Self {
            sessions: Arc::clone(sessions),
            connection,
            service: service.to_owned(),
            pending: PendingChanges::of(&path),
            path,
            watcher,
            known: BoundedInstances::new(),
        })
    }

    async fn update(&mut self) -> Result<Update, RegistryError> {
        let patience = self.sessions.settings.timeout;
        loop {
            self.hear().await;
            if self.pending.ended {
                return Err(self.broken(Error::SessionExpired));
            }
            if let Some(since) = self.pending.away_since {
                let heard = timeout_at(since + patience, self.watcher.changed()).await;
                let event = heard.map_err(|_| self.broken(Error::ConnectionLoss))?;
                self.pending.take(event, Instant::now());
                continue;
            }
            if self.pending.is_empty() {
                let event = self.watcher.changed().await;
                self.pending.take(event, Instant::now());
                continue;
            }
            match timeout(patience, self.read()).await {
                Ok(Ok(())) => break,
                // The watch will report it, too.
                Ok(Err(error)) if is_lost(&error) => {
                    let heard = timeout(patience, self.watcher.changed()).await;
                    let event = heard.map_err(|_| self.broken(Error::ConnectionLoss))?;
                    self.pending.take(event, Instant::now());
                }
                Ok(Err(error)) => return Err(self.broken(error)),
                Err(_) => return Err(self.sessions.too_late("follow the service")),
            }
        }
        // The events of missing entries have arrived before the list.
        self.hear().await;
        let departed = self.pending.departed(|id| self.known.has(id)).into_iter().collect();
        let instances = self.known.instances();
        Ok(Update { instances, departed, after_fault: self.pending.fault() })
    }

    /// Takes the events that have arrived.
    async fn hear(&mut self) {
        while !self.pending.ended {
            let event = tokio::select! {
                biased;
                event = self.watcher.changed() => event,
                () = ready(()) => return,
            };
            self.pending.take(event, Instant::now());
        }
    }

    /// Updates the known entries. A cancelled update is repeated.
    async fn read(&mut self) -> Result<(), Error> {
        let client = &self.connection.client;
        if self.pending.all {
            if self.pending.faulted {
                // The client restores its watches by itself. A failure is not reported, and occurs
                // after a change of the leader.
                self.watcher = watch(client, &self.path).await?;
            }
            self.known = list(client, &self.service, &self.path, &self.known).await?;
            for id in self.known.ids() {
                self.pending.is_there(id);
            }
        } else {
            let ids: Vec<_> = self.pending.touched.iter().cloned().collect();
            for some in ids.chunks(READ_AT_ONCE) {
                let nodes = some.iter().map(|id| child(&self.path, id)).collect::<Vec<_>>();
                let read = get(client, &nodes).await?;
                for ((id, node), data) in some.iter().zip(nodes).zip(read) {
                    let node = node.rsplit('/').next().unwrap_or_default();
                    let data = data.unwrap_or_default();
                    match data::instance(&self.service, node, &data) {
                        Some(instance) => {
                            self.pending.is_there(id);
                            self.known.put(instance, data.len());
                        }
                        None => self.known.remove(id),
                    }
                }
            }
        }
        self.pending.done();
        Ok(())
    }

    fn broken(&self, error: Error) -> RegistryError {
        self.sessions.failed(format!("cannot follow the node {}", self.path), error)
    }
}

impl Feed for ServiceFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(self.update())
    }
}

async fn watch(client: &Client, path: &str) -> Result<PersistentWatcher, Error> {
    client.watch(path, AddWatchMode::PersistentRecursive).await
}

/// The entries of a service, at least as new as any answer before this call. Known entries
/// (`known`) come first, so that new ones cannot displace them.
pub(super) async fn list(
    client: &Client,
    service: &str,
    path: &str,
    known: &BoundedInstances,
) -> Result<BoundedInstances, Error> {
    // The server answers in the order of the requests.
    let (caught_up, nodes) = tokio::join!(client.sync(path), client.list_children(path));
    caught_up?;
    let mut nodes = match nodes {
        Ok(nodes) => nodes,
        Err(Error::NoNode) => Vec::new(),
        Err(error) => return Err(error),
    };
    nodes.sort_by_cached_key(|node| !name(node).is_some_and(|id| known.has(&id)));
    let mut found = BoundedInstances::new();
    for some in nodes.chunks(READ_AT_ONCE) {
        let paths: Vec<_> = some.iter().map(|node| format!("{path}/{node}")).collect();
        for (node, data) in some.iter().zip(get(client, &paths).await?) {
            let data = data.unwrap_or_default();
            if let Some(instance) = data::instance(service, node, &data) {
                found.put(instance, data.len());
            }
        }
    }
    Ok(found)
}

/// The names of the services below the root that have entries.
pub(super) async fn services(client: &Client, root: &str) -> Result<Vec<String>, Error> {
    client.sync(root).await?;
    let nodes = match client.list_children(root).await {
        Ok(nodes) => nodes,
        Err(Error::NoNode) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for some in nodes.chunks(AT_ONCE) {
        let mut reader = client.new_multi_reader();
        for node in some {
            reader.add_get_children(&format!("{root}/{node}"))?;
        }
        for (node, result) in some.iter().zip(reader.commit().await?) {
            match result {
                MultiReadResult::Children { children } if !children.is_empty() => {
                    names.extend(service_name(node));
                }
                MultiReadResult::Error { err } if err != Error::NoNode => return Err(err),
                _ => {}
            }
        }
    }
    Ok(names)
}

/// The data of each existing node; at most [`READ_AT_ONCE`] nodes.
async fn get(client: &Client, nodes: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let mut reader = client.new_multi_reader();
    for node in nodes {
        reader.add_get_data(node)?;
    }
    let results = reader.commit().await?;
    if results.len() != nodes.len() {
        return Err(Error::UnexpectedError("fewer answers than questions".to_owned()));
    }
    let data = |result| match result {
        MultiReadResult::Data { data, .. } => Ok(Some(data)),
        MultiReadResult::Error { err: Error::NoNode } => Ok(None),
        MultiReadResult::Error { err } => Err(err),
        _ => Err(Error::UnexpectedError("another answer than data".to_owned())),
    };
    results.into_iter().map(data).collect()
}
