//! What a server keeps of peers that announce much or are gone: memory and sockets of this process.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rpc_runtime::protocol::{Header, Kind};
use rpc_runtime::{Result, Server, rpc_service};
use rpc_tests::probe::serve;
use rpc_tests::turn;
use rpc_tests::waiting::until;
use rpc_tests::wire::{RawPeer, frame, request_header};
use tokio::sync::Semaphore;

/// Memory of this process that is really there.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Having sent a large payload once, a peer is trusted with as much again, which must not be memory
/// that is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_once_and_then_only_announced_takes_no_memory() {
    let _turn = turn::mine().await;
    const PEERS: usize = 300;
    const LARGE: usize = 8 << 20;
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    // For no method there is: it is read as a whole and refused.
    let whole = frame(Header { method: 1, ..request_header(1, "echo") }, &vec![0; LARGE]);
    let before = resident_bytes();
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.send(&whole).await;
        assert_eq!(peer.answer(1).await.header.kind, Kind::Response);
        peers.push(peer);
    }
    let idle = resident_bytes().saturating_sub(before);
    let announced = Header { length: LARGE as u32, ..request_header(2, "echo") };
    for peer in &mut peers {
        // A ping in front tells that what is behind was read, too, or soon is.
        let mut bytes = frame(Header { id: 1, ..Header::new(Kind::Ping) }, &[]);
        bytes.extend(announced.encode());
        bytes.push(0x91);
        peer.send(&bytes).await;
        assert_eq!(peer.next().await.unwrap().header.kind, Kind::Pong);
    }
    let announced = resident_bytes().saturating_sub(before);
    assert!(idle < 100 << 20, "{} MiB are kept", idle >> 20);
    assert!(announced < PEERS * (256 << 10), "{} MiB more", announced >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn little_is_kept_of_a_hello_that_lists_many_services() {
    let _turn = turn::mine().await;
    const PEERS: usize = 40;
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    // A service that says nothing of itself is a single byte on the wire.
    let mut hello = b"\x81\xa8services\xdd".to_vec();
    hello.extend(65_000_u32.to_be_bytes());
    hello.resize(hello.len() + 65_000, 0x80);
    let hello = frame(Header::new(Kind::Hello), &hello);
    let before = resident_bytes();
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.send(&hello).await;
        peer.check().await;
        peers.push(peer);
    }
    // It was 5 MiB each.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < PEERS * (5 << 20) / 2, "{} MiB more", grown >> 20);
}

#[rpc_service(name = "e2e.Slow")]
trait Slow {
    #[rpc(oneway)]
    async fn take(&self) -> Result<()>;
}

#[derive(Clone)]
struct Gate {
    taking: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

impl Slow for Gate {
    async fn take(&self) -> Result<()> {
        self.taking.fetch_add(1, Ordering::SeqCst);
        let _permit = self.open.acquire().await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_oneway_that_goes_on_does_not_keep_the_socket_of_a_peer_that_is_gone() {
    let _turn = turn::mine().await;
    const PEERS: usize = 300;
    let gate = Gate { taking: Arc::default(), open: Arc::new(Semaphore::new(0)) };
    let server = Server::builder().provide(SlowServer::new(gate.clone()));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let take = SLOW_DESCRIPTOR.methods()[0].id();
    let oneway = frame(Header { method: take, ..Header::new(Kind::Oneway) }, &[0x90]);
    let before = open_files();
    for n in 1..=PEERS {
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.send(&oneway).await;
        until("it is taken", || gate.taking.load(Ordering::SeqCst) == n).await;
    }
    until("the connections are gone", || server.channels().is_empty()).await;
    let more = open_files().saturating_sub(before);
    assert!(more < PEERS / 2, "{more} more files are open");
    gate.open.close();
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
