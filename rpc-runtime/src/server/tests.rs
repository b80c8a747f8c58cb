//! How a server ends, in virtual time, seen by a peer that does as it likes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_registry::{BoxFuture, Instance, Lease, RegistryError, Session};
use tokio::time::Instant;

use super::{Server, ServerBuilder};
use crate::error::RpcError;
use crate::protocol::{Header, Kind, payload};
use crate::transport::raw::RawEnd;

const SECOND: Duration = Duration::from_secs(1);

async fn serve_with(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Server {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("memory:ending-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    set(Server::builder()).bind(name).await.unwrap()
}

/// A peer that has greeted, and was greeted.
async fn greeted(server: &Server) -> RawEnd {
    let mut peer = RawEnd::connect(server.local_uri()).await;
    peer.send_hello();
    assert!(peer.frame(Kind::Hello).await.is_some());
    // The server has read the hello, too.
    peer.send_frame(Header::new(Kind::Ping), &[]);
    assert!(peer.frame(Kind::Pong).await.is_some());
    peer
}

fn request(id: u64) -> Header {
    Header { id, ..Header::new(Kind::Request) }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crossed_the_goaway_is_answered_however_late_it_comes() {
    for late in [SECOND * 2, SECOND * 9] {
        let server = serve_with(|server| server).await;
        let mut peer = greeted(&server).await;
        let shutdown = tokio::spawn(server.shutdown());
        assert!(peer.frame(Kind::GoAway).await.is_some());
        // The line was slow, or this process was stopped, when the goaway came.
        tokio::time::sleep(late).await;
        peer.send_frame(request(7), &[]);
        let (answer, _) = peer.frame(Kind::Response).await.expect("an answer");
        assert_eq!(answer.id, 7);
        assert!(!shutdown.is_finished());
        let closed = Instant::now();
        drop(peer);
        shutdown.await.unwrap().unwrap();
        assert!(closed.elapsed() < SECOND / 10, "it has waited for nobody");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_end_its_connection_costs_the_budget_and_no_more() {
    let server = serve_with(|server| server.drain_timeout(SECOND * 4)).await;
    let mut peer = greeted(&server).await;
    let started = Instant::now();
    server.shutdown().await.unwrap();
    let took = started.elapsed();
    assert!((SECOND * 4..SECOND * 5).contains(&took), "{took:?}");
    assert!(peer.frame(Kind::Hello).await.is_none(), "the connection has ended");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_greeted_is_given_up_after_a_second_without_a_request() {
    let server = serve_with(|server| server).await;
    let mut peer = RawEnd::connect(server.local_uri()).await;
    assert!(peer.frame(Kind::Hello).await.is_some());
    let started = Instant::now();
    let shutdown = tokio::spawn(server.shutdown());
    assert!(peer.frame(Kind::GoAway).await.is_some());
    for id in 1..5 {
        tokio::time::sleep(SECOND * 9 / 10).await;
        peer.send_frame(request(id), &[]);
        assert_eq!(peer.frame(Kind::Response).await.unwrap().0.id, id);
    }
    assert!(peer.any_frame().await.is_none());
    drop(peer);
    shutdown.await.unwrap().unwrap();
    let took = started.elapsed();
    assert!((SECOND * 4..SECOND * 6).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_connects_to_a_server_that_ends_is_told_so_in_place_of_a_hello() {
    let server = serve_with(|server| server).await;
    let uri = server.local_uri().to_owned();
    let first = greeted(&server).await;
    // Holds up the stop of the accepting.
    let mut server = server;
    server.leases.push(Stuck::lease());
    let shutdown = tokio::spawn(server.shutdown());
    tokio::time::sleep(SECOND).await;
    let mut late = RawEnd::connect(&uri).await;
    let (header, body) = late.any_frame().await.expect("a word");
    assert_eq!((header.kind, header.id), (Kind::Error, 0));
    let error: RpcError = payload::decode(&body).unwrap();
    assert!(error.is_unavailable() && error.message().contains("shutting down"), "{error}");
    assert!(late.any_frame().await.is_none());
    drop(first);
    assert!(shutdown.await.unwrap().is_err());
}

/// A registry that does not answer.
struct Stuck;

impl Stuck {
    fn lease() -> Lease {
        Lease::new(Instance::new("svc", "tcp://127.0.0.1:1"), Self)
    }
}

impl Session for Stuck {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(std::future::pending())
    }

    fn abandon(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn registrations_are_taken_back_even_without_any_time_to_drain() {
    let registry = rpc_registry::connect("memory:no-time").await.unwrap();
    let lease = registry.register(Instance::new("svc", "tcp://127.0.0.1:1")).await.unwrap();
    let mut server = serve_with(|server| server.drain_timeout(Duration::ZERO)).await;
    server.leases.push(lease);
    let started = Instant::now();
    server.shutdown().await.unwrap();
    assert!(started.elapsed() < SECOND / 10);
    assert!(registry.lookup("svc").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_takes_no_time_from_the_requests_nor_they_from_it() {
    let mut server = serve_with(|server| server).await;
    server.leases.extend([Stuck::lease(), Stuck::lease()]);
    let mut peer = greeted(&server).await;
    let started = Instant::now();
    let shutdown = tokio::spawn(server.shutdown());
    // Told at once, and served on behind the registry's half of the time.
    assert!(peer.frame(Kind::GoAway).await.is_some());
    assert!(started.elapsed() < SECOND / 10);
    tokio::time::sleep(SECOND * 8).await;
    peer.send_frame(request(1), &[]);
    assert!(peer.frame(Kind::Response).await.is_some());
    drop(peer);
    let error = shutdown.await.unwrap().unwrap_err();
    assert!(error.message().contains("registry did not answer"), "{error}");
    assert!(started.elapsed() < SECOND * 9, "{:?}", started.elapsed());
}
