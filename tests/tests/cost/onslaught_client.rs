//! Providers that flood a default client: it does not end, takes little memory, and its calls to
//! others do not wait. One bad frame at a time is in `hostile::frames`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use rpc_runtime::protocol::{Header, Kind};
use rpc_tests::victim::{self, client_endures};
use rpc_tests::wire::{RawPeer, arguments, bare, frame, hello, ok, request};

/// A provider that sends this over and over, and takes in what it is sent.
async fn flood(what: &str, bytes: Vec<u8>) {
    client_endures(what, move |mut peer: RawPeer| {
        let bytes = bytes.clone();
        async move {
            peer.flood(&bytes, victim::CLIENT_TIME).await;
        }
    })
    .await;
}

/// A provider that sends this over and over, and reads nothing.
async fn flood_unread(what: &str, bytes: Vec<u8>) {
    client_endures(what, move |mut peer: RawPeer| {
        let bytes = bytes.clone();
        async move {
            peer.flood_unread(&bytes, victim::CLIENT_TIME).await;
        }
    })
    .await;
}

fn many(count: u64, one: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    (1..=count).flat_map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_asked_for() {
    flood("small answers", many(5_000, |id| ok(id << 32, &"unasked"))).await;
    flood("answers of 4 MiB", ok(1 << 40, &"u".repeat(4 << 20))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_and_credit_of_streams_that_there_are_not() {
    let item = |id| frame(Header { id, ..Header::new(Kind::StreamData) }, &arguments(&"i"));
    flood("items", many(5_000, item)).await;
    let credit = |id| frame(Header { id, ..Header::new(Kind::StreamCredit) }, &[0xff; 4]);
    flood("credit", many(5_000, credit)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_about_everything() {
    let error = |id| frame(Header { id, ..Header::new(Kind::Error) }, &arguments(&("no", 1)));
    flood("errors", many(5_000, |id| error(id << 32))).await;
    // Each ends a connection.
    flood("errors about the connection", error(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goaways() {
    flood("goaways", bare(Kind::GoAway, 0).repeat(5_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_requests_read_and_unread() {
    let asked = |id| [bare(Kind::Ping, id), request(id, "wait", &())].concat();
    flood("pings and requests", many(5_000, asked)).await;
    flood_unread("pings and requests, answers unread", many(5_000, asked)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_over_and_over() {
    flood("hellos", hello().repeat(1_000)).await;
    let services: Vec<_> = (0..60_000 / 20).map(|n| format!("service-{n:010}")).collect();
    let body = arguments(&std::collections::BTreeMap::from([("features", services)]));
    flood("large hellos", frame(Header::new(Kind::Hello), &body)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_announced_with_4_gib() {
    client_endures("announcements of 4 GiB", |mut peer: RawPeer| async move {
        let Some(request) = peer.requested().await else { return };
        let id = request.header.id;
        let header = Header { id, length: u32::MAX, ..Header::new(Kind::Response) };
        peer.try_send(&header.encode()).await;
        peer.flood(&[0; 4_096], victim::CLIENT_TIME / 4).await;
    })
    .await;
}
