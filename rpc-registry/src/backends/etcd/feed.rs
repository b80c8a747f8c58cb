//! [`EtcdFeed`]: follows the entries of a service.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tonic::{Status, Streaming};

use super::client::{Client, Method};
use super::keys::{Keys, end_of};
use super::messages::{RangeRequest, RangeResponse};
use super::request_error::RequestError;
use super::service_entries::ServiceEntries;
use super::watch_messages::{WatchCreateRequest, WatchOrder, WatchRequest, WatchResponse};
use crate::back_end::{Feed, Update};
use crate::{BoxFuture, RegistryError};

/// Maximum messages of a watch that are combined, so that combining ends.
const MAX_TOGETHER: usize = 1000;

/// Reads the entries at a revision, and then watches what changes after it.
pub(super) struct EtcdFeed {
    client: Arc<Client>,
    keys: Keys,
    service: Vec<u8>,
    list: ServiceEntries,
    /// The revision of `list`.
    revision: i64,
    state: FeedState,
    /// The error that the next call returns.
    broken: Option<RegistryError>,
    /// Whether the watch was behind, and no change has arrived since.
    was_behind: bool,
}

enum FeedState {
    /// The changes since the list was read were compacted.
    Behind,
    /// The list was read and not returned yet.
    Read,
    Told,
    Watching(Box<Streaming<WatchResponse>>),
}

/// The effect of a message of the watch.
enum Received {
    Nothing,
    Changed,
    Behind,
}

/// The entries of a service, and their revision.
pub(super) async fn read(
    client: &Client,
    keys: &Keys,
    service: &[u8],
) -> Result<(ServiceEntries, i64), RegistryError> {
    let request =
        RangeRequest { key: service.to_vec(), range_end: end_of(service), keys_only: false };
    let found: RangeResponse = client.call(Method::RANGE, request).await?;
    Ok((ServiceEntries::of(keys, service, found.kvs), found.header.unwrap_or_default().revision))
}

impl EtcdFeed {
    pub(super) async fn open(
        client: Arc<Client>,
        keys: Keys,
        service: Vec<u8>,
    ) -> Result<Self, RegistryError> {
        let (list, revision) = read(&client, &keys, &service).await?;
        let (state, broken) = (FeedState::Read, None);
        Ok(Self { client, keys, service, list, revision, state, broken, was_behind: false })
    }

    async fn step(&mut self) -> Result<Option<Update>, RegistryError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        match &mut self.state {
            FeedState::Behind => {
                (self.list, self.revision) = read(&self.client, &self.keys, &self.service).await?;
                self.state = FeedState::Read;
            }
            FeedState::Read => {
                self.state = FeedState::Told;
                return Ok(Some(self.list.update()));
            }
            FeedState::Told => {
                let watch = WatchCreateRequest {
                    key: self.service.clone(),
                    range_end: end_of(&self.service),
                    start_revision: self.revision.saturating_add(1),
                };
                let order = WatchRequest { order: Some(WatchOrder::Create(watch)) };
                self.state = FeedState::Watching(Box::new(self.client.watch(order).await?));
            }
            FeedState::Watching(stream) => {
                let message = stream.message().await;
                match self.take(message)? {
                    Received::Nothing => {}
                    Received::Behind => self.state = FeedState::Behind,
                    Received::Changed => {
                        self.take_what_is_there();
                        return Ok(Some(self.list.update()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Combines changes that have already arrived.
    fn take_what_is_there(&mut self) {
        for _ in 0..MAX_TOGETHER {
            let FeedState::Watching(stream) = &mut self.state else { return };
            let mut now = Context::from_waker(Waker::noop());
            let Poll::Ready(message) = pin!(stream.message()).poll(&mut now) else { return };
            match self.take(message) {
                Ok(Received::Behind) => self.state = FeedState::Behind,
                Ok(_) => {}
                Err(error) => {
                    self.broken = Some(error);
                    return;
                }
            }
        }
    }

    fn take(
        &mut self,
        message: Result<Option<WatchResponse>, Status>,
    ) -> Result<Received, RegistryError> {
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Err(self.ended("etcd ended it")),
            Err(status) => {
                return Err(match RequestError::of(&status) {
                    RequestError::Refused(error) => error.with_registry(self.client.uri()),
                    RequestError::Busy(why) | RequestError::Unreachable(why) => self.ended(&why),
                });
            }
        };
        if message.compact_revision != 0 {
            // Otherwise it would read the list repeatedly, without a pause.
            return match std::mem::replace(&mut self.was_behind, true) {
                true => Err(self.ended("etcd forgets changes before they can be watched")),
                false => Ok(Received::Behind),
            };
        }
        if message.canceled {
            let error = RequestError::of_reason(&message.cancel_reason);
            return Err(error.with_registry(self.client.uri()));
        }
        let revision = message.header.unwrap_or_default().revision;
        if message.created && revision < self.revision {
            // Otherwise it would wait for a revision that may be years ahead.
            return Err(self.ended("etcd has lost what it knew"));
        }
        if message.events.is_empty() {
            return Ok(Received::Nothing);
        }
        for event in message.events {
            self.list.apply(&self.keys, event);
        }
        (self.revision, self.was_behind) = (revision, false);
        Ok(Received::Changed)
    }

    fn ended(&self, why: &str) -> RegistryError {
        RegistryError::unavailable(format!("the watch has ended: {why}"))
            .with_registry(self.client.uri())
    }
}

impl Feed for EtcdFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(async {
            loop {
                if let Some(update) = self.step().await? {
                    return Ok(update);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::super::settings::Settings;
    use super::*;
    use crate::RegistryUri;
    use crate::backends::etcd::watch_messages::Event;

    #[tokio::test]
    async fn a_watch_that_is_always_behind_is_given_up_so_that_there_is_a_pause() {
        let uri = RegistryUri::parse("etcd://127.0.0.1:1").unwrap();
        let settings = Settings::from_uri(&uri).unwrap();
        let client = Arc::new(Client::new(&settings, Handle::current()));
        let mut feed = EtcdFeed {
            client,
            keys: Keys::new("/p"),
            service: b"/p/s/".to_vec(),
            list: ServiceEntries::of(&Keys::new("/p"), b"/p/s/", Vec::new()),
            revision: 1,
            state: FeedState::Told,
            broken: None,
            was_behind: false,
        };
        let behind = || Ok(Some(WatchResponse { compact_revision: 9, ..Default::default() }));
        let events = vec![Event::default()];
        assert!(matches!(feed.take(behind()), Ok(Received::Behind)));
        let change = WatchResponse { events, ..Default::default() };
        assert!(matches!(feed.take(Ok(Some(change))), Ok(Received::Changed)));
        assert!(matches!(feed.take(behind()), Ok(Received::Behind)));
        assert!(feed.take(behind()).is_err_and(|error| error.is_unavailable()));
    }
}
