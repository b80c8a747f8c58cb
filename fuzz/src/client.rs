//! A client with a provider that violates the protocol: every call ends, and the client sends only
//! valid frames.

use std::time::Duration;

use rpc_runtime::__fuzz::RawListener;
use rpc_runtime::protocol::{Flags, Header, Kind};
use rpc_runtime::{Client, Streaming};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::input::Input;
use crate::server::{Peer, Zoo, ZooClient, method, settle};

/// Steps of one input.
const STEPS: usize = 200;
/// Connections that the provider accepts at a time.
const MOST_PEERS: usize = 4;
/// Slightly more than the default timeout of a call.
const LONGEST_CALL: Duration = Duration::from_secs(11);
const URI: &str = "memory:fuzz-client";

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
}

pub(crate) fn run(data: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(attack(Input::new(data))));
}

async fn attack(mut input: Input<'_>) {
    let mut listener = RawListener::bind(URI).await.unwrap();
    let client = Client::builder().lazy(true).connect(URI).await.unwrap();
    let zoo = ZooClient::new(client.clone());
    let (mut peers, mut calls) = (Vec::new(), JoinSet::new());
    call(&mut calls, &zoo, 0);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        settle().await;
        if peers.len() < MOST_PEERS
            && let Some(end) = listener.try_accept().await
        {
            let peer = Peer::new(end);
            if !input.byte().is_multiple_of(8) {
                peer.frame(Header::new(Kind::Hello), &[0x80]);
            }
            peers.push(peer);
        }
        step(&mut peers, &mut calls, &zoo, &mut input).await;
    }
    settle().await;
    peers.iter_mut().for_each(Peer::read);
    for _ in 0..3 {
        tokio::time::advance(LONGEST_CALL / 3).await;
        settle().await;
    }
    while calls.try_join_next().is_some() {}
    assert!(calls.is_empty(), "{} calls do not end", calls.len());
    drop(peers);
    client.close().await;
}

fn call(calls: &mut JoinSet<()>, zoo: &ZooClient, which: u8) {
    let zoo = zoo.clone();
    match which % 5 {
        0 => drop(calls.spawn(async move { drop(zoo.echo("text".into(), 7).await) })),
        1 => drop(calls.spawn(async move { drop(zoo.note("text".into()).await) })),
        2 => drop(calls.spawn(async move {
            drop(zoo.sum(Streaming::from_items([1, 2, 3])).await);
        })),
        3 => drop(calls.spawn(async move {
            let Ok(mut items) = zoo.endless(10).await else { return };
            // A stream may outlive its call; one end stops it.
            for _ in 0..3 {
                let _ = tokio::time::timeout(Duration::from_secs(1), items.next()).await;
            }
        })),
        _ => drop(calls.spawn(async move { drop(zoo.wait().await) })),
    };
}

async fn step(peers: &mut [Peer], calls: &mut JoinSet<()>, zoo: &ZooClient, input: &mut Input<'_>) {
    let what = input.byte();
    if what.is_multiple_of(8) {
        return call(calls, zoo, what / 8);
    }
    if what % 8 == 1 {
        return tokio::time::advance(Duration::from_millis(input.u16().into())).await;
    }
    let last = peers.len().saturating_sub(1);
    let Some(peer) = peers.get_mut(usize::from(what / 8).min(last)) else { return };
    peer.read();
    let asked = usize::from(input.byte());
    let id = match peer.requests.len() {
        0 => asked as u64,
        count => peer.requests[asked % count],
    };
    match what % 8 {
        2 => peer.write(input.bytes(asked)),
        3 => {
            let header = Header {
                id,
                status: input.byte().into(),
                flags: Flags::from_bits(input.byte().into()),
                ..Header::new(Kind::Response)
            };
            let length = usize::from(input.byte());
            peer.frame(header, input.bytes(length));
        }
        4 => {
            let header = Header {
                id,
                flags: Flags::from_bits(input.byte().into()),
                method: method(input.byte()),
                status: input.byte().into(),
                ..Header::new(Kind::from_wire(input.byte() % 16))
            };
            let length = usize::from(input.byte());
            peer.frame(header, input.bytes(length));
        }
        5 => {
            let header = Header { id, ..Header::new(Kind::StreamData) };
            let length = usize::from(input.byte());
            peer.frame(header, input.bytes(length));
        }
        6 => {
            let header = Header { id, ..Header::new(Kind::StreamCredit) };
            peer.frame(header, &input.u32().to_be_bytes());
        }
        _ if input.byte() > 250 => peer.end.shutdown_write(),
        _ => peer.frame(Header { id, ..Header::new(Kind::StreamEnd) }, &[]),
    }
}
