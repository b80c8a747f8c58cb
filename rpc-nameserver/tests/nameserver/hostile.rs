//! A name server that means ill, beside one that does not.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{ids, instance, registry, server, until_seen, within};
use rpc_nameserver::{
    Change, Listing, NameError, NameService, NameServiceClient, NameServiceServer, Refusal, Secret,
    Why, pack, unpack,
};
use rpc_registry::{Instance, Registry};
use rpc_runtime::{Blob, RpcError, Server, Streaming};
use tokio::time::sleep;

/// What it does to those who ask.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    EndsAtOnce,
    TellsOnceAndEnds,
    SaysNothing,
    TellsNonsense,
    ListsOthers,
    /// Lists of so many instances, one after the other without a pause.
    ListsWithoutEnd(usize),
}

#[derive(Clone)]
struct Hostile {
    manner: Manner,
    follows: Arc<AtomicUsize>,
    /// The sessions, and the changes that were told.
    heard: Arc<Mutex<(Vec<u64>, Vec<Change>)>>,
    told: Arc<AtomicUsize>,
}

impl Hostile {
    async fn bind(uri: &str, manner: Manner) -> (Server, Self) {
        let hostile =
            Self { manner, follows: Arc::default(), told: Arc::default(), heard: Arc::default() };
        let provided = NameServiceServer::new(hostile.clone());
        let server = Server::builder().provide(provided).max_payload(32 << 20);
        (server.bind(uri).await.unwrap(), hostile)
    }

    fn listing(&self) -> Listing {
        let other = Instance::new("other", "tcp://127.0.0.1:1").with_id("c");
        let no_uri = Instance::new("svc", "no\nuri").with_id("b");
        let instances = match self.manner {
            Manner::TellsNonsense => Blob::from(vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
            Manner::ListsWithoutEnd(many) => {
                let all: Vec<_> = (0..many).map(|n| instance(&n.to_string())).collect();
                pack(&all).unwrap()
            }
            _ => pack(&[instance("a"), no_uri, other]).unwrap(),
        };
        Listing { instances, departed: Vec::new() }
    }
}

impl NameService for Hostile {
    async fn attend(&self, session: u64, _: u64) -> Result<Streaming<()>, NameError> {
        self.heard.lock().unwrap().0.push(session);
        Ok(match self.manner {
            Manner::ListsOthers => Streaming::from_stream(futures::stream::pending()),
            _ => Streaming::from_items([]),
        })
    }

    async fn renew(&self, _: u64, _: u64) -> rpc_runtime::Result<bool> {
        Ok(false)
    }

    async fn report(&self, _: u64, _: u64, told: Blob) -> Result<Vec<Refusal>, NameError> {
        self.heard.lock().unwrap().1.extend(unpack::<Vec<Change>>(&told)?);
        Ok(Vec::new())
    }

    async fn lookup(&self, _: String) -> Result<Listing, NameError> {
        Ok(self.listing())
    }

    async fn follow(&self, _: String) -> Result<Streaming<Listing>, NameError> {
        self.follows.fetch_add(1, Ordering::Relaxed);
        Ok(match self.manner {
            Manner::EndsAtOnce => Streaming::from_items([]),
            Manner::ListsWithoutEnd(_) => {
                let (listing, told) = (self.listing(), Arc::clone(&self.told));
                Streaming::from_stream(futures::stream::iter(std::iter::repeat_with(move || {
                    told.fetch_add(1, Ordering::Relaxed);
                    Ok(listing.clone())
                })))
            }
            Manner::SaysNothing => Streaming::from_stream(futures::stream::pending()),
            _ => Streaming::from_items([self.listing()]),
        })
    }

    async fn services(&self) -> Result<Vec<String>, NameError> {
        Err(RpcError::internal("no").into())
    }

    async fn remove(&self, _: String, _: String, _: Option<Secret>) -> Result<bool, NameError> {
        Ok(false)
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_not_held_up_by_a_server_that_tells_no_list() {
    for (n, manner) in
        [Manner::EndsAtOnce, Manner::SaysNothing, Manner::TellsNonsense].into_iter().enumerate()
    {
        let (bad, good) = (format!("memory:no-list-{n}"), format!("memory:lists-{n}"));
        let (_bad, _) = Hostile::bind(&bad, manner).await;
        let _good = server(&good).await;
        let provider = registry(&[&good]).await;
        let _lease = provider.register(instance("a")).await.unwrap();
        // Which of the servers is asked first is left to chance.
        for _ in 0..8 {
            let consumer = registry(&[&bad, &good]).await;
            let mut watch = within(consumer.watch("svc")).await.unwrap();
            until_seen(&mut watch, |it| ids(it) == ["a"]).await;
        }
        let alone = registry(&[&bad]).await;
        let error = within(alone.watch("svc")).await.unwrap_err();
        assert!(error.is_unavailable() || error.is_timeout(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lookup_asks_another_server_if_a_list_cannot_be_read() {
    let (_bad, _) = Hostile::bind("memory:unreadable", Manner::TellsNonsense).await;
    let _good = server("memory:readable").await;
    for _ in 0..8 {
        let consumer = registry(&["memory:unreadable", "memory:readable"]).await;
        assert!(consumer.lookup("svc").await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_stream_after_a_list_is_asked_ever_more_rarely() {
    let (_bad, hostile) = Hostile::bind("memory:ends", Manner::TellsOnceAndEnds).await;
    let consumer = registry(&["memory:ends"]).await;
    let watch = consumer.watch("svc").await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let follows = hostile.follows.load(Ordering::Relaxed);
    assert!((10..300).contains(&follows), "{follows} times in ten minutes");
    drop(watch);
}

#[tokio::test(start_paused = true)]
async fn instances_of_other_services_and_those_that_are_none_are_left_out() {
    let (_bad, _) = Hostile::bind("memory:others", Manner::ListsOthers).await;
    let consumer = registry(&["memory:others"]).await;
    assert_eq!(ids(&consumer.lookup("svc").await.unwrap()), ["a"]);
    let mut watch = consumer.watch("svc").await.unwrap();
    assert_eq!(ids(&watch.changed().await.unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_tells_lists_without_end_is_heard_no_more_often_than_one_that_means_well() {
    let manner = Manner::ListsWithoutEnd(10);
    let (_bad, hostile) = Hostile::bind("memory:endless", manner).await;
    let consumer = registry(&["memory:endless"]).await;
    let mut watch = consumer.watch("svc").await.unwrap();
    until_seen(&mut watch, |it| it.len() == 10).await;
    sleep(Duration::from_secs(10)).await;
    let told = hostile.told.load(Ordering::Relaxed);
    // 20 a second, and those that wait between the two.
    assert!((100..2_000).contains(&told), "{told} lists");
}

#[tokio::test(start_paused = true)]
async fn a_list_of_more_instances_than_a_server_has_is_not_read() {
    let (_bad, _) = Hostile::bind("memory:masses", Manner::ListsWithoutEnd(131_073)).await;
    let error = registry(&["memory:masses"]).await.lookup("svc").await.map(drop).unwrap_err();
    assert!(error.to_string().contains("131073 instances"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_a_server_learns_of_a_provider_is_no_use_at_another_server() {
    let (_bad, hostile) = Hostile::bind("memory:learns", Manner::ListsOthers).await;
    let _good = server("memory:honest").await;
    let provider = registry(&["memory:learns", "memory:honest"]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let (sessions, changes) = std::mem::take(&mut *hostile.heard.lock().unwrap());
    let Change::Register { instance: learned, secret, .. } = changes.into_iter().next().unwrap()
    else {
        panic!("a registration comes first");
    };
    // What it has heard, told at the other server.
    let thief = NameServiceClient::connect("memory:honest").await.unwrap();
    let _session = thief.attend(sessions[0], 60_000).await.unwrap();
    let newer = learned.clone().with_epoch(learned.epoch() + 1);
    let change = Change::Register { instance: newer, new: false, secret: secret.clone() };
    let refusals = thief.report(sessions[0], 1, pack(&[change]).unwrap()).await.unwrap();
    assert_eq!(refusals.first().map(|it| it.why), Some(Why::Taken));
    let removed = thief.remove("svc".into(), "a".into(), secret).await;
    assert!(matches!(removed, Err(NameError::Denied(_))), "{removed:?}");
    let honest = registry(&["memory:honest"]).await;
    assert_eq!(honest.lookup("svc").await.unwrap()[0], *lease.instance());
    assert!(provider.unregister("svc", "a").await.unwrap(), "its owner may");
}
