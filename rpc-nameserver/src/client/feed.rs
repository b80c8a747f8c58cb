//! [`NameFeed`]: follows a service at one server, and at another when that fails.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{BoxFuture, Feed, Instance, RegistryError, Update};
use rpc_runtime::Streaming;
use tokio::time::timeout;

use super::reader::Reader;
use crate::contract::{Listing, NameService, unpack};

pub(super) struct NameFeed {
    reader: Arc<Reader>,
    service: String,
    /// For the first list of a stream.
    timeout: Duration,
    stream: Option<Follow>,
    /// The next list is the first of another stream, which knows nothing of what went before.
    moved: bool,
}

/// What a server tells of a service.
struct Follow {
    stream: Streaming<Listing>,
    /// The index of the server.
    server: usize,
    /// It has told a list.
    told: bool,
}

impl NameFeed {
    pub(super) async fn open(
        reader: Arc<Reader>,
        service: &str,
        timeout: Duration,
    ) -> Result<Self, RegistryError> {
        let service = service.to_owned();
        let mut feed = Self { reader, service, timeout, stream: None, moved: false };
        feed.stream = Some(feed.reopen().await?);
        Ok(feed)
    }

    async fn reopen(&self) -> Result<Follow, RegistryError> {
        let service = &self.service;
        let (server, stream) = self
            .reader
            .ask(|server| async move { server.stub.follow(service.clone()).await })
            .await?;
        Ok(Follow { stream, server, told: false })
    }

    async fn next_update(&mut self) -> Result<Update, RegistryError> {
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.reopen().await?);
            }
            let Some(follow) = &mut self.stream else { continue };
            let next = match follow.told {
                true => Ok(follow.stream.next().await),
                false => timeout(self.timeout, follow.stream.next()).await,
            };
            let why = match next {
                Ok(Some(Ok(listing))) => {
                    follow.told = true;
                    let after_fault = std::mem::take(&mut self.moved);
                    let instances = instances(&listing)?;
                    return Ok(Update { instances, departed: listing.departed, after_fault });
                }
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => "it is stopping".to_owned(),
                Err(_) => format!("it has told no list within {:?}", self.timeout),
            };
            if !follow.told {
                // Asked again at once, it might do the same, and so on.
                self.reader.leave(follow.server);
                return Err(self.reader.unavailable(&why));
            }
            tracing::info!(
                service = self.service,
                server = self.reader.name(follow.server),
                why,
                "a name server can't be followed any more; asking another"
            );
            self.stream = None;
            self.moved = true;
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

#[cfg(test)]
mod tests {
    use rpc_runtime::{Blob, Result as RpcResult, Server};
    use tokio::time::Instant;

    use super::*;
    use crate::client::server::RemoteServer;
    use crate::contract::{NameError, NameServiceServer, Refusal};
    use crate::{NameServer, NameServersSettings};

    /// Its streams end, or stay open, without a list.
    struct Useless {
        ends: bool,
    }

    impl NameService for Useless {
        async fn attend(&self, _: u64, _: u64) -> Result<Streaming<()>, NameError> {
            Err(NameError::NoSession)
        }

        async fn renew(&self, _: u64, _: u64) -> RpcResult<bool> {
            Ok(false)
        }

        async fn report(&self, _: u64, _: u64, _: Blob) -> Result<Vec<Refusal>, NameError> {
            Err(NameError::NoSession)
        }

        async fn lookup(&self, _: String) -> Result<Listing, NameError> {
            Err(NameError::NoSession)
        }

        async fn follow(&self, _: String) -> Result<Streaming<Listing>, NameError> {
            Ok(match self.ends {
                true => Streaming::from_stream(futures::stream::empty()),
                false => Streaming::from_stream(futures::stream::pending()),
            })
        }

        async fn services(&self) -> Result<Vec<String>, NameError> {
            Ok(Vec::new())
        }

        async fn remove(&self, _: String, _: String) -> Result<bool, NameError> {
            Ok(false)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_tells_no_list_is_left_for_another_and_not_asked_again_at_once() {
        for (ends, uri) in [(true, "memory:feed-ends"), (false, "memory:feed-silent")] {
            let useless = NameServiceServer::new(Useless { ends });
            let _useless = Server::builder().provide(useless).bind(uri).await.unwrap();
            let good = format!("{uri}-not");
            let builder = NameServer::builder().grace(Duration::ZERO);
            let _good = builder.bind(&good).await.unwrap();
            let settings = NameServersSettings::new([uri, &good]);
            let mut servers = Vec::new();
            for uri in &settings.servers {
                servers.push(Arc::new(RemoteServer::new(uri, &settings).await.unwrap()));
            }
            let reader = Arc::new(Reader::new("nameserver:", servers));
            // Whichever server it begins with, it comes to the other.
            reader.leave(1);
            let begun = Instant::now();
            let open = || NameFeed::open(Arc::clone(&reader), "svc", settings.timeout);
            let first = timeout(Duration::from_secs(60), open().await.unwrap().next()).await;
            let error = first.expect("it waits or asks for ever").unwrap_err();
            assert!(error.is_unavailable(), "{error}");
            assert!(begun.elapsed() <= 2 * settings.timeout);
            assert!(open().await.unwrap().next().await.unwrap().instances.is_empty());
        }
    }
}
