//! Providers whose responses have metadata that breaks the rules: each fails its own call, and the
//! connection goes on.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_runtime::protocol::{Flags, Header, Hello, Kind};
use rpc_runtime::{Client, RpcError};
use rpc_tests::probe::{Probe, ProbeClient};
use rpc_tests::random::Random;
use rpc_tests::waiting::within;
use rpc_tests::wire::{RawPeer, RawServer, arguments, bare, frame, hello};

fn section(length: u32, bytes: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), bytes].concat()
}

fn whole(bytes: &[u8]) -> Vec<u8> {
    section(u32::try_from(bytes.len()).unwrap(), bytes)
}

fn map(pairs: &[(&str, &str)]) -> Vec<u8> {
    arguments(&pairs.iter().copied().collect::<BTreeMap<_, _>>())
}

/// Sections that do not decode.
fn damaged() -> Vec<Vec<u8>> {
    let text = arguments(&"value");
    let with = |section: Vec<u8>| [section, text.clone()].concat();
    let deep = [[0x81, 0xa1, b'a'].repeat(5_000), vec![0xa0]].concat();
    vec![
        Vec::new(),
        vec![0, 0, 1],
        section(0, &[]),
        with(section(0, &[])),
        with(section(u32::MAX, &[])),
        with(section((16 << 10) + 1, &vec![0x80; (16 << 10) + 1])),
        section(100, &map(&[("a", "b")])),
        with(whole(&[0xc0])),
        with(whole(&[0x91, 0xa0])),
        with(whole(&[0x81, 0xa1, b'a', 7])),
        with(whole(&[0x81, 7, 0xa1, b'a'])),
        with(whole(&[0x81, 0xa1, 0xff, 0xa0])),
        with(whole(&[0xdf, 0xff, 0xff, 0xff, 0xff])),
        with(whole(&[0x81, 0xdb, 0xff, 0xff, 0xff, 0xff])),
        with(whole(&deep)),
        whole(&map(&[("a", "b")])),
    ]
}

/// A provider that answers the n-th request with the n-th response, and all further ones as asked.
async fn answers(
    bodies: Vec<(Flags, u16, Vec<u8>)>,
    before: Vec<u8>,
) -> (RawServer, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let server = RawServer::start(move |mut peer: RawPeer| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (bodies, before) = (bodies.clone(), before.clone());
        async move {
            let mut bodies = bodies.into_iter();
            while let Some(request) = peer.requested().await {
                let id = request.header.id;
                peer.try_send(&before).await;
                let answer = Header { id, ..Header::new(Kind::Response) };
                let answer = match bodies.next() {
                    Some((flags, status, body)) => frame(Header { flags, status, ..answer }, &body),
                    None => frame(answer, &arguments(&"as asked")),
                };
                peer.try_send(&answer).await;
            }
        }
    })
    .await;
    (server, connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_metadata_of_a_response_fails_its_call_alone() {
    for (extra, status) in [
        (Flags::default(), 0),
        (Flags::default(), 1),
        (Flags::default(), 60),
        (Flags::STREAM, 0),
        (Flags::COMPACT, 0),
    ] {
        let flags = Flags::METADATA.with(extra);
        let bodies: Vec<_> = damaged().into_iter().map(|body| (flags, status, body)).collect();
        let count = bodies.len();
        let (server, connections) = answers(bodies, Vec::new()).await;
        let probe = ProbeClient::connect(server.uri()).await.unwrap();
        for n in 0..count {
            let error = probe.echo("x".into()).await.unwrap_err();
            assert!(!error.is_safe_to_retry() && !error.is_timeout(), "{n}, {status}: {error:?}");
        }
        assert_eq!(probe.echo("x".into()).await, Ok("as asked".into()));
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_a_response_may_be_odd_as_long_as_it_is_a_map_of_texts() {
    let twice = [&[0x82, 0xa1, b'a', 0xa1, b'1', 0xa1, b'a', 0xa1, b'2'][..]].concat();
    let long = "k".repeat(16_000);
    let sections = [whole(&twice), whole(&[0x80]), whole(&map(&[("", ""), (&long, "")]))];
    let text = arguments(&"value");
    let bodies = sections.map(|section| (Flags::METADATA, 0, [section, text.clone()].concat()));
    let (server, connections) = answers(bodies.to_vec(), Vec::new()).await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(probe.echo("x".into()).await, Ok("value".into()));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flag_for_metadata_has_no_effect_on_frames_that_have_none() {
    let header = |kind, id| Header { id, flags: Flags::METADATA, ..Header::new(kind) };
    let kinds = [Kind::Ping, Kind::Pong, Kind::StreamData, Kind::StreamCredit, Kind::StreamEnd];
    let mut before: Vec<u8> =
        kinds.iter().flat_map(|kind| frame(header(*kind, 1 << 40), &[0, 0, 0, 9])).collect();
    before.extend(frame(header(Kind::Hello, 0), &[0, 0, 0, 9]));
    before.extend(frame(header(Kind::Error, 1 << 40), &[0, 0, 0, 9]));
    before.extend(frame(header(Kind::Cancel, 1 << 40), &[]));
    let (server, connections) = answers(Vec::new(), before).await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(probe.echo("x".into()).await, Ok("as asked".into()));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_sections_end_neither_the_client_nor_its_connection() {
    let mut random = Random::new(7);
    let mut bodies = Vec::new();
    for _ in 0..2_000 {
        let mut body = whole(&map(&[("one", "two"), ("three", "four")]));
        body.extend(arguments(&"value"));
        for _ in 0..=random.below(4) {
            let at = usize::try_from(random.below(body.len() as u64)).unwrap();
            body[at] = u8::try_from(random.below(256)).unwrap();
        }
        body.truncate(usize::try_from(random.below(2 * body.len() as u64)).unwrap());
        let status = u16::try_from(random.below(2)).unwrap() * 60;
        bodies.push((Flags::METADATA, status, body));
    }
    let (server, connections) = answers(bodies, Vec::new()).await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for _ in 0..2_000 {
        if let Err(error) = probe.echo("x".into()).await {
            assert!(!error.is_safe_to_retry() && !error.is_timeout(), "{error:?}");
        }
    }
    assert_eq!(probe.echo("x".into()).await, Ok("as asked".into()));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_lists_ten_thousand_features_is_served() {
    let (server, _) = rpc_tests::probe::serve("tcp://127.0.0.1:0").await;
    let mut many = Hello::default();
    many.features = (0..10_000).map(|n| format!("{n:04}")).collect();
    many.features.push("reply_metadata".into());
    let mut peer = RawPeer::connect(server.local_uri()).await;
    peer.send(&frame(Header::new(Kind::Hello), &arguments(&many))).await;
    peer.check().await;
}

/// Metadata for calls that were cancelled, for none, and before the hello.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_with_metadata_that_nobody_waits_for_do_no_harm() {
    let body = [whole(&map(&[("a", "b")])), arguments(&"late")].concat();
    let server = RawServer::start_rude(move |mut peer: RawPeer| {
        let body = body.clone();
        async move {
            let response = |id, extra| {
                let flags = Flags::METADATA.with(extra);
                frame(Header { id, flags, ..Header::new(Kind::Response) }, &body)
            };
            peer.try_send(&hello()).await;
            let mut given_up = Vec::new();
            while let Some(request) = peer.next().await {
                let id = request.header.id;
                match request.header.kind {
                    Kind::Cancel => {
                        given_up.push(id);
                        continue;
                    }
                    Kind::Request => {
                        for id in given_up.drain(..) {
                            peer.try_send(&response(id, Flags::default())).await;
                            peer.try_send(&response(id, Flags::STREAM)).await;
                        }
                        if request.header.method == rpc_tests::probe::method("echo").id() {
                            let answer = Header { id, ..Header::new(Kind::Response) };
                            peer.try_send(&frame(answer, &arguments(&"as asked"))).await;
                        }
                    }
                    _ => continue,
                }
                peer.try_send(&response(1 << 50, Flags::STREAM)).await;
                peer.try_send(&bare(Kind::Pong, 7)).await;
            }
        }
    })
    .await;
    let client = Client::builder().connect(server.uri()).await.unwrap();
    let probe = ProbeClient::new(client);
    for _ in 0..50 {
        let given_up = tokio::time::timeout(Duration::from_millis(2), probe.wait()).await;
        assert!(given_up.is_err());
        let answered: Result<String, RpcError> =
            within(Duration::from_secs(5), "a call", probe.echo("x".into())).await;
        assert_eq!(answered, Ok("as asked".into()));
    }
}
