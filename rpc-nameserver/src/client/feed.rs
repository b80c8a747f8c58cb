//! [`NameFeed`]: follows a service at one server, and at another when that fails.

use std::sync::Arc;

use rpc_registry::{BoxFuture, Feed, Instance, RegistryError, Update};
use rpc_runtime::Streaming;

use super::reader::Reader;
use crate::contract::{Listing, NameService, unpack};

pub(super) struct NameFeed {
    reader: Arc<Reader>,
    service: String,
    stream: Option<Streaming<Listing>>,
    /// Which of the servers that comes from.
    server: usize,
    /// The next list is the first of another stream, which knows nothing of what went before.
    moved: bool,
}

impl NameFeed {
    pub(super) async fn open(reader: Arc<Reader>, service: &str) -> Result<Self, RegistryError> {
        let service = service.to_owned();
        let mut feed = Self { reader, service, stream: None, server: 0, moved: false };
        feed.reopen().await?;
        Ok(feed)
    }

    async fn reopen(&mut self) -> Result<&mut Streaming<Listing>, RegistryError> {
        let service = &self.service;
        let (server, stream) = self
            .reader
            .ask(|server| async move { server.stub.follow(service.clone()).await })
            .await?;
        self.server = server;
        Ok(self.stream.insert(stream))
    }

    async fn next_update(&mut self) -> Result<Update, RegistryError> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.reopen().await?,
            };
            match stream.next().await {
                Some(Ok(listing)) => {
                    let after_fault = std::mem::take(&mut self.moved);
                    let instances = instances(&listing)?;
                    return Ok(Update { instances, departed: listing.departed, after_fault });
                }
                ended => {
                    let why = ended.and_then(Result::err);
                    let why = why.map_or_else(|| "it is stopping".to_owned(), |it| it.to_string());
                    tracing::info!(
                        service = self.service,
                        server = self.reader.name(self.server),
                        why,
                        "a name server can't be followed any more; asking another"
                    );
                    self.stream = None;
                    self.moved = true;
                }
            }
        }
    }
}

impl Feed for NameFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(self.next_update())
    }
}

pub(super) fn instances(listing: &Listing) -> Result<Vec<Instance>, RegistryError> {
    unpack(&listing.instances).map_err(|error| {
        RegistryError::unsupported_format(format!("a name server's list can't be read: {error:?}"))
    })
}
