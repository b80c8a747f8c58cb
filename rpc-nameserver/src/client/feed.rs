//! [`NameFeed`]: follows a service at one server, and at another when that fails.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{BoxFuture, Feed, Instance, RegistryError, Update, limited};
use rpc_runtime::{Blob, RpcError, Streaming};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::reader::Reader;
use super::server::RemoteServer;
use crate::contract::{Listing, NameError, NameService, array_len, unpack};
use crate::pace::pause;

/// A stream that ends sooner moves on to another server. After two of them in a row the feed
/// pauses: otherwise servers that end each stream at once would be queried without end.
const SOON: Duration = Duration::from_secs(1);
/// Longer lists are decoded on the pool of blocking threads, not on the event loop.
const LONG: usize = 64 << 10;
/// Maximum number of instances in a list: as many as a server of an earlier version holds.
const MAX_INSTANCES: u64 = 131_072;

pub(super) struct NameFeed {
    reader: Arc<Reader>,
    service: String,
    stream: Option<Followed>,
    /// The first list of the stream, until it is returned.
    first: Option<Update>,
    /// Whether the previous stream ended soon.
    was_short: bool,
}

struct Followed {
    stream: Streaming<Listing>,
    /// The server.
    index: usize,
    since: Instant,
    /// No list is read earlier. A server that sends lists faster than agreed must not keep this
    /// process busy.
    next: Instant,
    /// A list that was taken, until it is read.
    taken: Option<Listing>,
}

impl Followed {
    async fn next(&mut self, service: &str) -> Result<Update, NameError> {
        let listing = match &mut self.taken {
            Some(listing) => listing,
            taken => {
                sleep_until(self.next).await;
                let told = self.stream.next().await;
                let told = told.ok_or_else(|| RpcError::unavailable("it is stopping"))??;
                self.next = Instant::now() + pause(told.instances.len());
                taken.insert(told)
            }
        };
        let update = update(listing, service).await;
        self.taken = None;
        update
    }
}

impl NameFeed {
    pub(super) async fn open(reader: Arc<Reader>, service: &str) -> Result<Self, RegistryError> {
        let service = service.to_owned();
        let mut feed = Self { reader, service, stream: None, first: None, was_short: false };
        feed.reopen().await?;
        Ok(feed)
    }

    /// Follows at a server that sends a list.
    async fn reopen(&mut self) -> Result<(), RegistryError> {
        let service = &self.service;
        let ask = |server: Arc<RemoteServer>| async move {
            let mut stream = server.stub.follow(service.clone()).await?;
            let first = timeout(server.timeout, stream.next()).await;
            let first = first.map_err(|_| RpcError::unavailable("it told no list in time"))?;
            let first = first.unwrap_or_else(|| Err(RpcError::unavailable("it told no list")))?;
            Ok((stream, update(&first, service).await?))
        };
        let (index, (stream, first)) = self.reader.ask(ask).await?;
        let now = Instant::now();
        // No pause after the first list, so that the end of a short stream is seen at once.
        self.stream = Some(Followed { stream, index, since: now, next: now, taken: None });
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
                // A new stream has no relation to the previous lists.
                self.first.iter_mut().for_each(|first| first.after_fault = true);
                continue;
            };
            let why = match followed.next(&self.service).await {
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

async fn update(listing: &Listing, service: &str) -> Result<Update, NameError> {
    let instances = instances(&listing.instances, service).await?;
    Ok(Update { instances, departed: listing.departed.clone(), after_fault: false })
}

/// The instances of this service in a list. The list is untrusted: any process may listen at the
/// address.
pub(super) async fn instances(list: &Blob, service: &str) -> Result<Vec<Instance>, NameError> {
    if list.len() < LONG {
        return read(list, service);
    }
    let (list, service) = (list.clone(), service.to_owned());
    let read = spawn_blocking(move || read(&list, &service)).await;
    read.map_err(|error| RpcError::internal(format!("its list is not read: {error}")))?
}

fn read(list: &Blob, service: &str) -> Result<Vec<Instance>, NameError> {
    // The list of another server may be readable.
    let unreadable = |why: String| RpcError::internal(format!("its list can't be read: {why}"));
    if let Some(claimed) = array_len(list).filter(|claimed| *claimed > MAX_INSTANCES) {
        return Err(unreadable(format!("it has {claimed} instances")).into());
    }
    let mut instances: Vec<Instance> =
        unpack(list).map_err(|error| unreadable(format!("{error:?}")))?;
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
