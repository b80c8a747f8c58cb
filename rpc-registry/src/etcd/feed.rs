//! [`EtcdFeed`]: the entries of a service, followed.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tonic::{Status, Streaming};

use super::client::{Client, Method};
use super::fault::Fault;
use super::keys::{Keys, end_of};
use super::list::List;
use super::messages::{
    RangeRequest, RangeResponse, WatchCreateRequest, WatchOrder, WatchRequest, WatchResponse,
};
use crate::back_end::{Feed, Update};
use crate::{BoxFuture, RegistryError};

/// So many messages of a watch are told as one at most, so that there is an end to it.
const MAX_TOGETHER: usize = 1000;

/// Reads the entries at a revision, and then watches what changes after it.
pub(super) struct EtcdFeed {
    client: Arc<Client>,
    keys: Keys,
    service: Vec<u8>,
    list: List,
    /// The one that `list` shows.
    revision: i64,
    state: State,
    /// What is to be told before anything else.
    broken: Option<RegistryError>,
    /// It was behind, and has heard of no change since.
    was_behind: bool,
}

enum State {
    /// The changes since the list was read are no longer there.
    Behind,
    /// The list is new and was not told.
    Read,
    Told,
    Watching(Box<Streaming<WatchResponse>>),
}

/// What a message of the watch has done.
enum News {
    None,
    Changed,
    Behind,
}

/// The entries of a service, and at which revision they were such.
pub(super) async fn read(
    client: &Client,
    keys: &Keys,
    service: &[u8],
) -> Result<(List, i64), RegistryError> {
    let request =
        RangeRequest { key: service.to_vec(), range_end: end_of(service), keys_only: false };
    let found: RangeResponse = client.call(Method::RANGE, request).await?;
    Ok((List::of(keys, service, found.kvs), found.header.unwrap_or_default().revision))
}

impl EtcdFeed {
    pub(super) async fn open(
        client: Arc<Client>,
        keys: Keys,
        service: Vec<u8>,
    ) -> Result<Self, RegistryError> {
        let (list, revision) = read(&client, &keys, &service).await?;
        let (state, broken) = (State::Read, None);
        Ok(Self { client, keys, service, list, revision, state, broken, was_behind: false })
    }

    async fn step(&mut self) -> Result<Option<Update>, RegistryError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        match &mut self.state {
            State::Behind => {
                (self.list, self.revision) = read(&self.client, &self.keys, &self.service).await?;
                self.state = State::Read;
            }
            State::Read => {
                self.state = State::Told;
                return Ok(Some(self.list.update()));
            }
            State::Told => {
                let watch = WatchCreateRequest {
                    key: self.service.clone(),
                    range_end: end_of(&self.service),
                    start_revision: self.revision.saturating_add(1),
                };
                let order = WatchRequest { order: Some(WatchOrder::Create(watch)) };
                self.state = State::Watching(Box::new(self.client.watch(order).await?));
            }
            State::Watching(stream) => {
                let message = stream.message().await;
                match self.take(message)? {
                    News::None => {}
                    News::Behind => self.state = State::Behind,
                    News::Changed => {
                        self.take_what_is_there();
                        return Ok(Some(self.list.update()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Many changes are told as one if they came as quickly.
    fn take_what_is_there(&mut self) {
        for _ in 0..MAX_TOGETHER {
            let State::Watching(stream) = &mut self.state else { return };
            let mut now = Context::from_waker(Waker::noop());
            let Poll::Ready(message) = pin!(stream.message()).poll(&mut now) else { return };
            match self.take(message) {
                Ok(News::Behind) => self.state = State::Behind,
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
    ) -> Result<News, RegistryError> {
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Err(self.ended("etcd ended it")),
            Err(status) => {
                return Err(match Fault::of(&status) {
                    Fault::Refused(error) => error.with_registry(self.client.uri()),
                    Fault::Busy(why) | Fault::Unreachable(why) => self.ended(&why),
                });
            }
        };
        if message.compact_revision != 0 {
            // Else it would read the list again and again, without a pause.
            return match std::mem::replace(&mut self.was_behind, true) {
                true => Err(self.ended("etcd forgets changes before they can be watched")),
                false => Ok(News::Behind),
            };
        }
        if message.canceled {
            let error = Fault::of_reason(&message.cancel_reason);
            return Err(error.with_registry(self.client.uri()));
        }
        let revision = message.header.unwrap_or_default().revision;
        if message.created && revision < self.revision {
            // Else it would wait for a revision that may be years ahead.
            return Err(self.ended("etcd has lost what it knew"));
        }
        if message.events.is_empty() {
            return Ok(News::None);
        }
        for event in message.events {
            self.list.apply(&self.keys, event);
        }
        (self.revision, self.was_behind) = (revision, false);
        Ok(News::Changed)
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
    use crate::etcd::messages::Event;

    #[tokio::test]
    async fn a_watch_that_is_always_behind_is_given_up_so_that_there_is_a_pause() {
        let uri = RegistryUri::parse("etcd://127.0.0.1:1").unwrap();
        let settings = Settings::from_uri(&uri).unwrap();
        let client = Arc::new(Client::new(&settings, Handle::current()));
        let mut feed = EtcdFeed {
            client,
            keys: Keys::new("/p"),
            service: b"/p/s/".to_vec(),
            list: List::of(&Keys::new("/p"), b"/p/s/", Vec::new()),
            revision: 1,
            state: State::Told,
            broken: None,
            was_behind: false,
        };
        let behind = || Ok(Some(WatchResponse { compact_revision: 9, ..Default::default() }));
        let events = vec![Event::default()];
        assert!(matches!(feed.take(behind()), Ok(News::Behind)));
        let change = WatchResponse { events, ..Default::default() };
        assert!(matches!(feed.take(Ok(Some(change))), Ok(News::Changed)));
        assert!(matches!(feed.take(behind()), Ok(News::Behind)));
        assert!(feed.take(behind()).is_err_and(|error| error.is_unavailable()));
    }
}
