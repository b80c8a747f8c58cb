//! [`NameFeed`]: follows a service at one server, and at another when that fails.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{BoxFuture, Feed, Instance, RegistryError, Update, limited};
use rpc_runtime::{RpcError, Streaming};
use tokio::time::{Instant, timeout};

use super::reader::Reader;
use super::server::RemoteServer;
use crate::contract::{Listing, NameError, NameService, unpack};

/// After a stream that ends sooner another server is asked first. After two of them in a row there is
/// to be a pause: else those who end each stream at once would be asked without end.
const SOON: Duration = Duration::from_secs(1);

pub(super) struct NameFeed {
    reader: Arc<Reader>,
    service: String,
    stream: Option<Followed>,
    /// The first list of the stream, until it is told.
    first: Option<Update>,
    /// The stream before this one has ended soon.
    was_short: bool,
}

struct Followed {
    stream: Streaming<Listing>,
    /// The server.
    index: usize,
    since: Instant,
}

impl NameFeed {
    pub(super) async fn open(reader: Arc<Reader>, service: &str) -> Result<Self, RegistryError> {
        let service = service.to_owned();
        let mut feed = Self { reader, service, stream: None, first: None, was_short: false };
        feed.reopen().await?;
        Ok(feed)
    }

    /// Follows at a server that tells a list.
    async fn reopen(&mut self) -> Result<(), RegistryError> {
        let service = &self.service;
        let ask = |server: Arc<RemoteServer>| async move {
            let mut stream = server.stub.follow(service.clone()).await?;
            let first = timeout(server.timeout, stream.next()).await;
            let first = first.map_err(|_| RpcError::unavailable("it told no list in time"))?;
            let first = first.unwrap_or_else(|| Err(RpcError::unavailable("it told no list")))?;
            Ok((stream, update(first, service)?))
        };
        let (index, (stream, first)) = self.reader.ask(ask).await?;
        self.stream = Some(Followed { stream, index, since: Instant::now() });
        self.first = Some(first);
        Ok(())
    }

    async fn next_update(&mut self) -> Result<Update, RegistryError> {
        loop {
            if let Some(first) = self.first.take() {
                return Ok(first);
            }
            let Some(followed) = &mut self.stream else {
                self.reopen().await?;
                // Another stream knows nothing of what went before.
                self.first.iter_mut().for_each(|first| first.after_fault = true);
                continue;
            };
            let told = match followed.stream.next().await {
                Some(told) => told.map_err(NameError::from),
                None => Err(RpcError::unavailable("it is stopping").into()),
            };
            let why = match told.and_then(|listing| update(listing, &self.service)) {
                Ok(update) => return Ok(update),
                Err(error) => self.reader.explain(followed.index, error),
            };
            let (index, is_soon) = (followed.index, followed.since.elapsed() < SOON);
            self.stream = None;
            if is_soon {
                self.reader.leave(index);
                if self.was_short {
                    return Err(why);
                }
            }
            self.was_short = is_soon;
            limited!(
                info,
                service = self.service,
                server = self.reader.name(index),
                %why,
                "a name server can't be followed any more; asking another"
            );
        }
    }
}

impl Feed for NameFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(self.next_update())
    }
}

fn update(listing: Listing, service: &str) -> Result<Update, NameError> {
    let instances = instances(&listing, service)?;
    Ok(Update { instances, departed: listing.departed, after_fault: false })
}

/// The instances of a list, of this service. Whoever listens at an address may have told it.
pub(super) fn instances(listing: &Listing, service: &str) -> Result<Vec<Instance>, NameError> {
    let mut instances: Vec<Instance> = unpack(&listing.instances).map_err(|error| {
        // Another server's list may be readable.
        RpcError::internal(format!("its list can't be read: {error:?}"))
    })?;
    let told = instances.len();
    instances.retain(|it| it.service() == service && it.validate().is_ok());
    let refused = told.saturating_sub(instances.len());
    if refused > 0 {
        limited!(
            warn,
            service,
            refused,
            "a name server lists invalid instances of the service; they are skipped"
        );
    }
    Ok(instances)
}
