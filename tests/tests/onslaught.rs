//! Floods against a default server, and against a default client: neither ends, neither takes much
//! memory, and nobody else waits. One bad frame at a time is in `hostile`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::protocol::Kind;
use rpc_tests::process;
use rpc_tests::victim::{self, server_endures};
use rpc_tests::wire::{RawPeer, bare};

const SECOND: Duration = Duration::from_secs(1);

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    if let Some(role) = process::role() {
        victim::play(&role);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings() {
    server_endures("pings", |uri| async move {
        let mut peer = RawPeer::connect(&uri).await;
        peer.flood(&bare(Kind::Ping, 1).repeat(1_000), SECOND).await
    })
    .await;
}
