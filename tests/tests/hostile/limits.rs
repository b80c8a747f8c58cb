//! The limits of a server: whoever is over one is told which, and nobody else notices.
#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::protocol::Kind;
use rpc_runtime::{Server, ServerBuilder};
use rpc_tests::bystander::Bystander;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::{RawPeer, hello, request};

async fn serve_with(limits: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Server {
    let server = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    limits(server).bind("tcp://127.0.0.1:0").await.unwrap()
}

#[tokio::test]
async fn a_client_over_the_limit_of_connections_hears_of_it_and_gets_a_place_that_is_free_again() {
    let server = serve_with(|server| server.max_connections(2)).await;
    let first = ProbeClient::connect(server.local_uri()).await.unwrap();
    let second = ProbeClient::connect(server.local_uri()).await.unwrap();
    let error = soon("a refusal", ProbeClient::connect(server.local_uri())).await.unwrap_err();
    assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error:?}");
    assert!(error.to_string().contains("2 connections"), "{error}");
    assert!(error.to_string().contains("`max_connections`"), "{error}");
    assert_eq!(second.add(1, 2).await, Ok(3));
    drop(first);
    until("the place is free", || server.channels().len() == 1).await;
    let third = ProbeClient::connect(server.local_uri()).await.unwrap();
    assert_eq!(third.add(1, 2).await, Ok(3));
}

#[tokio::test]
async fn a_client_over_the_limit_of_its_address_hears_of_it() {
    let server = serve_with(|server| server.max_connections_per_address(1)).await;
    let _first = ProbeClient::connect(server.local_uri()).await.unwrap();
    let error = soon("a refusal", ProbeClient::connect(server.local_uri())).await.unwrap_err();
    assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error:?}");
    assert!(error.to_string().contains("1 connections of 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_refused_peer_gets_the_reason_even_if_it_has_sent_much_in_the_meantime() {
    let server = serve_with(|server| server.max_connections(1)).await;
    let _first = ProbeClient::connect(server.local_uri()).await.unwrap();
    for _ in 0..20 {
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.try_send(&hello()).await;
        for id in 0..100 {
            peer.try_send(&request(id, "echo", &("e".repeat(1_000),))).await;
        }
        let frame = peer.any_frame().await.expect("the reason");
        assert_eq!((frame.header.kind, frame.header.id), (Kind::Error, 0));
        assert!(frame.error().is_overloaded());
        assert!(peer.any_frame().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_connections_does_not_disturb_those_that_are_served() {
    let server = serve_with(|server| server.max_connections(1)).await;
    let bystander = Bystander::start(server.local_uri()).await;
    let mut refused = Vec::new();
    for _ in 0..500 {
        refused.push(RawPeer::connect(server.local_uri()).await);
    }
    bystander.finish().await;
    // They hold on; the server does not.
    for mut peer in refused {
        soon("the end of a refused connection", peer.drain()).await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_greet_makes_room_for_others() {
    let limits = |server: ServerBuilder| {
        server.max_connections(1).handshake_timeout(Duration::from_millis(200))
    };
    let server = serve_with(limits).await;
    let mut silent = RawPeer::connect(server.local_uri()).await;
    let error = silent.last_words().await;
    assert!(error.is_timeout() && error.message().contains("handshake_timeout"), "{error:?}");
    drop(silent);
    until("the place is free", || server.channels().is_empty()).await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    assert_eq!(probe.add(1, 2).await, Ok(3));
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answers_makes_room_for_others() {
    let limits = |server: ServerBuilder| {
        server.max_connections(1).slow_reader_timeout(Duration::from_millis(200))
    };
    let server = serve_with(limits).await;
    let mut deaf = RawPeer::connect(server.local_uri()).await;
    for id in 1..=4 {
        deaf.try_send(&request(id, "make", &(8_000_000,))).await;
    }
    until("the place is taken", || !server.channels().is_empty()).await;
    until("the place is free", || server.channels().is_empty()).await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    assert_eq!(probe.add(1, 2).await, Ok(3));
    drop(deaf);
}
