//! Metadata of replies, from a method to the wire.
#![allow(missing_docs)]

use rpc_runtime::protocol::{DecodeLimits, Flags, Header, Hello, Kind};
use rpc_runtime::{Blob, Context, Dispatch, Result, RpcError, Server, Streaming, rpc_service};
use rpc_tests::waiting::soon;
use rpc_tests::wire::{RawFrame, RawPeer, arguments, frame, hello};

#[rpc_service]
pub trait Tagged {
    /// Sets these entries, then waits if told to.
    async fn tag(&self, entries: Vec<(String, String)>, wait: bool) -> Result<String>;
    /// The same for a result that is a stream.
    async fn items(&self, n: u32) -> Result<Streaming<u32>>;
    /// Sets metadata in a task with a copy of the context.
    async fn elsewhere(&self) -> Result<()>;
    /// Sets an entry, then fails.
    async fn fail(&self) -> Result<()>;
    /// Sets an entry, and returns so many bytes without a copy.
    async fn blob(&self, bytes: usize) -> Result<Blob>;
}

struct Tags;

impl Tagged for Tags {
    async fn tag(&self, entries: Vec<(String, String)>, wait: bool) -> Result<String> {
        for (key, value) in entries {
            Context::set_reply_metadata(key, value);
        }
        if wait {
            tokio::task::yield_now().await;
            Context::set_reply_metadata("waited", "yes");
        }
        Ok("value".to_owned())
    }

    async fn items(&self, n: u32) -> Result<Streaming<u32>> {
        Context::set_reply_metadata("count", n.to_string());
        Ok(Streaming::from_items(1..=n))
    }

    async fn elsewhere(&self) -> Result<()> {
        let task = async { Context::set_reply_metadata("lost", "yes") };
        tokio::spawn(Context::current().scope(task)).await.unwrap();
        Ok(())
    }

    async fn fail(&self) -> Result<()> {
        Context::set_reply_metadata("reason", "full");
        Err(RpcError::internal("no"))
    }

    async fn blob(&self, bytes: usize) -> Result<Blob> {
        Context::set_reply_metadata("served-by", "node-7");
        Ok(Blob::from(vec![7; bytes]))
    }
}

fn reading_hello() -> Vec<u8> {
    let mut hello = Hello::default();
    hello.features = vec!["invented later".to_owned(), "reply_metadata".to_owned()];
    frame(Header::new(Kind::Hello), &arguments(&hello))
}

fn request(id: u64, method: usize, values: &impl serde::Serialize) -> Vec<u8> {
    let method = TAGGED_DESCRIPTOR.methods()[method].id();
    let header = Header { id, method, deadline_ms: 10_000, ..Header::new(Kind::Request) };
    frame(header, &arguments(values))
}

fn entries(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The entries of the metadata section, and what is behind it.
fn split(frame: &RawFrame) -> (Vec<(String, String)>, &[u8]) {
    if !frame.header.flags.contains(Flags::METADATA) {
        return (Vec::new(), &frame.body);
    }
    let (length, rest) = frame.body.split_first_chunk::<4>().unwrap();
    let (section, value) = rest.split_at(u32::from_be_bytes(*length) as usize);
    let map: std::collections::BTreeMap<_, _> = rmp_serde::from_slice(section).unwrap();
    (map.into_iter().collect(), value)
}

async fn serve(mode: Dispatch) -> Server {
    let server = Server::builder().provide(TaggedServer::new(Tags)).dispatch(mode);
    server.bind("tcp://127.0.0.1:0").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_a_method_sets_is_in_front_of_its_value_wherever_it_runs() {
    for mode in [Dispatch::Inline, Dispatch::Spawn, Dispatch::Blocking] {
        let server = serve(mode).await;
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.send(&reading_hello()).await;
        let two = entries(&[("served-by", "node-7"), ("zone", "b")]);
        for (id, wait) in [(1, false), (2, true)] {
            peer.send(&request(id, 0, &(&two, wait))).await;
            let answer = peer.answer(id).await;
            let (metadata, value) = split(&answer);
            let mut expected = two.clone();
            expected.extend(wait.then(|| ("waited".to_owned(), "yes".to_owned())));
            expected.sort();
            assert_eq!(metadata, expected, "{mode:?}");
            assert_eq!(rmp_serde::from_slice::<String>(value).unwrap(), "value");
        }
        // A call that sets none has none, and neither has one that sets it elsewhere.
        peer.send(&request(3, 0, &(entries(&[]), false))).await;
        peer.send(&request(4, 2, &[0; 0])).await;
        for id in [3, 4] {
            let answer = peer.next().await.unwrap();
            assert!(!answer.header.flags.contains(Flags::METADATA), "{id}: {answer:?}");
        }
        peer.send(&request(5, 1, &(3,))).await;
        let answer = peer.answer(5).await;
        assert!(answer.header.flags.contains(Flags::STREAM));
        assert_eq!(split(&answer), (entries(&[("count", "3")]), &[0xc0][..]));
        for item in 1..=3 {
            let frame = peer.next().await.unwrap();
            assert_eq!((frame.header.kind, &frame.body[..]), (Kind::StreamData, &[item][..]));
        }
        assert_eq!(peer.next().await.unwrap().header.kind, Kind::StreamEnd);
        peer.send(&request(6, 3, &[0; 0])).await;
        let answer = peer.answer(6).await;
        assert_eq!(answer.header.status, 1);
        assert_eq!(split(&answer).0, entries(&[("reason", "full")]));
        for (id, bytes) in [(7, 20_000), (8, 100_000)] {
            peer.send(&request(id, 4, &(bytes,))).await;
            let answer = peer.answer(id).await;
            let (metadata, value) = split(&answer);
            assert_eq!(metadata, entries(&[("served-by", "node-7")]));
            let value: Blob = rpc_runtime::protocol::decode(value, DecodeLimits::new()).unwrap();
            assert!(value.len() == bytes && value.iter().all(|byte| *byte == 7));
        }
        drop(peer);
        soon("the end", server.shutdown()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_say_that_it_reads_metadata_gets_none() {
    let server = serve(Dispatch::Inline).await;
    // One without a hello, and one without the feature.
    for greeting in [Vec::new(), hello()] {
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.send(&greeting).await;
        for (id, wait) in [(1, false), (2, true)] {
            peer.send(&request(id, 0, &(entries(&[("served-by", "node-7")]), wait))).await;
            let answer = peer.answer(id).await;
            assert_eq!(answer.header.flags, Flags::default());
            assert_eq!(answer.value::<String>(), "value");
        }
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_over_the_limit_fails_its_call_and_not_the_connection() {
    let server = serve(Dispatch::Inline).await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    peer.send(&reading_hello()).await;
    let long = "x".repeat(16 << 10);
    for (id, wait) in [(1, false), (2, true)] {
        peer.send(&request(id, 0, &(entries(&[("long", &long)]), wait))).await;
        let answer = peer.answer(id).await;
        assert!(!answer.is_unexecuted());
        let error = answer.error();
        assert!(error.is_too_large() && error.message().contains("metadata"), "{error}");
    }
    // What fits travels.
    let fits = entries(&[("long", &long[64..])]);
    peer.send(&request(3, 0, &(&fits, false))).await;
    assert_eq!(split(&peer.answer(3).await).0, fits);
    drop(peer);
    server.shutdown().await.unwrap();
}
