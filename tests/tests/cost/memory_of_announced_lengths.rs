//! How much memory this process has, while nothing else takes any.
#![allow(missing_docs)]

use rpc_runtime::protocol::{Header, Kind};
use rpc_tests::probe::serve;
use rpc_tests::turn;
use rpc_tests::wire::{RawPeer, frame, request_header};

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
