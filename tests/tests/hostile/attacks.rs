//! Attacks that once succeeded, and damage on the way between a client and a server.
#![allow(missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rpc_runtime::protocol::{Flags, HEADER_LEN, Header, Kind};
use rpc_runtime::{Dispatch, Server};
use rpc_tests::bystander::Bystander;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, Seen, serve};
use rpc_tests::random::Random;
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::{RawPeer, bare, frame, request, request_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

// ---- against a server ------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_used_one_id_for_all_its_requests_leaves_nothing_behind() {
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let builder = Server::builder().provide(ProbeServer::new(provider)).max_concurrent_requests(4);
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    // Without a deadline, so that nothing else ends them.
    let one = frame(Header { deadline_ms: 0, ..request_header(7, "wait") }, &[0x90]);
    peer.send(&one.repeat(20)).await;
    until("more is in work than may be", || seen.waiting() > 4).await;
    drop(peer);
    until("what was in work is given up", || seen.waiting() == 0).await;
    until("the connection is gone", || server.channels().is_empty()).await;
}

/// A server whose methods all run on the pool for blocking work.
async fn blocking() -> (Server, Arc<Seen>) {
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let builder = Server::builder().provide(ProbeServer::new(provider));
    let server = builder.dispatch(Dispatch::Blocking).bind("tcp://127.0.0.1:0").await.unwrap();
    (server, seen)
}

/// Requests without a deadline for a method that waits for ever.
fn waits(ids: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    let one = |id| frame(Header { deadline_ms: 0, ..request_header(id, "wait") }, &[0x90]);
    ids.flat_map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_method_that_awaits_gives_its_thread_back_when_nobody_waits_for_it() {
    let (server, seen) = blocking().await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    peer.send(&waits(1..=40)).await;
    until("all of them wait", || seen.waiting() == 40).await;
    peer.send(&(1..=20).flat_map(|id| bare(Kind::Cancel, id)).collect::<Vec<_>>()).await;
    until("those that were cancelled have ended", || seen.waiting() == 20).await;
    peer.check().await;
    drop(peer);
    until("all have ended", || seen.waiting() == 0).await;
    soon("shutdown", server.shutdown()).await.unwrap();
}

#[test]
fn a_runtime_can_be_dropped_while_blocking_methods_await() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, peer) = runtime.block_on(async {
        let (server, seen) = blocking().await;
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.send(&waits(1..=10)).await;
        until("all of them wait", || seen.waiting() == 10).await;
        (server, peer)
    });
    let (dropped, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        let _ = dropped.send(());
    });
    assert!(done.recv_timeout(5 * SECOND).is_ok(), "the methods keep the runtime from its end");
    drop((server, peer));
}

// ---- between a client and a server -----------------------------------------------------------

/// What becomes of a frame on its way: the pieces that are sent in its place.
type Damage = Arc<dyn Fn(&mut Random, Vec<u8>) -> Vec<Vec<u8>> + Send + Sync>;

/// Stands between clients and a server; ends with its value.
struct Proxy {
    uri: String,
    _connections: JoinSet<()>,
}

impl Proxy {
    async fn start(server: &Server, damage: Damage) -> Self {
        let target = server.local_uri().strip_prefix("tcp://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("tcp://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pumps = JoinSet::new();
            for seed in 0_u64.. {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&target).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let random = |direction| Random::new(2 * seed + direction);
                pumps.spawn(pump(from_client, to_server, random(1), Arc::clone(&damage)));
                pumps.spawn(pump(from_server, to_client, random(2), Arc::clone(&damage)));
            }
        });
        Self { uri, _connections: tasks }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut random: Random, damage: Damage) {
    let mut input = Vec::new();
    while from.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
        while let Ok(Some(header)) = Header::decode(&input) {
            let end = HEADER_LEN + header.length as usize;
            if input.len() < end {
                break;
            }
            for piece in damage(&mut random, input.drain(..end).collect()) {
                if to.write_all(&piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A text that tells whether it is whole.
fn sealed(n: u64, random: &mut Random) -> String {
    let text = format!("{n}:{}", "p".repeat(random.below(200) as usize));
    format!("{:016x}{text}", checksum(&text))
}

fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn is_sealed(text: &str) -> bool {
    let parts = text.get(..16).zip(text.get(16..));
    parts.is_some_and(|(seal, text)| seal == format!("{:016x}", checksum(text)))
}

/// Calls from a few clients, through the proxy, for a second: how many got their own answer, and
/// how many anything else but another call's answer, which none may get.
async fn calls_through(uri: &str, timeout: Duration) -> (usize, usize) {
    let (right, other) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let until = Instant::now() + SECOND;
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (uri, right, other) = (uri.to_owned(), Arc::clone(&right), Arc::clone(&other));
            tokio::spawn(async move {
                let mut random = Random::new(caller);
                let mut n = caller << 32;
                while Instant::now() < until {
                    // A new client each time: it has no attempts to wait for.
                    let probe = ProbeClient::connect(&uri).await;
                    let Ok(probe) = probe.map(|probe| probe.with_timeout(timeout)) else {
                        continue;
                    };
                    for _ in 0..4 {
                        n += 8;
                        let sent: Vec<_> = (n..n + 8).map(|n| sealed(n, &mut random)).collect();
                        let calls = sent.iter().map(|text| probe.echo(text.clone()));
                        let got = futures::future::join_all(calls);
                        let got = soon("calls with a deadline", got).await;
                        for (sent, got) in sent.iter().zip(got) {
                            match got {
                                Ok(got) if got == *sent => &right,
                                Ok(got) if is_sealed(&got) => panic!("{got} and not {sent}"),
                                Ok(_) | Err(_) => &other,
                            }
                            .fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        soon("a caller", caller).await.unwrap();
    }
    (right.load(Ordering::SeqCst), other.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_but_in_the_id_gives_no_call_the_answer_of_another() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let bystander = Bystander::start(server.local_uri()).await;
    let damage = |random: &mut Random, mut frame: Vec<u8>| {
        let at = random.below(frame.len() as u64) as usize;
        // Whoever has the id has the answer: nothing but TCP's checksum protects it.
        if random.below(8) == 0 && !(8..16).contains(&at) {
            frame[at] ^= 1 << random.below(8);
        }
        vec![frame]
    };
    let proxy = Proxy::start(&server, Arc::new(damage)).await;
    let (right, other) = calls_through(&proxy.uri, SECOND / 5).await;
    assert!(right > 50 && other > 50, "{right} answered, {other} not");
    drop(proxy);
    bystander.finish().await;
    until("all connections are freed", || server.channels().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_arrive_more_than_once_or_byte_by_byte_change_no_answer() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let again = |random: &mut Random, frame: Vec<u8>| vec![frame; 1 + random.below(3) as usize];
    let bytes = |_: &mut Random, frame: Vec<u8>| frame.chunks(1).map(<[u8]>::to_vec).collect();
    for damage in [Arc::new(again) as Damage, Arc::new(bytes)] {
        let proxy = Proxy::start(&server, damage).await;
        let (right, other) = calls_through(&proxy.uri, 5 * SECOND).await;
        assert!(right > 50 && other == 0, "{right} answered, {other} not");
    }
    until("all connections are freed", || server.channels().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_may_end_at_any_byte() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let target = server.local_uri().strip_prefix("tcp://").unwrap().to_owned();
    // Its hello, and the answer to one call.
    let mut peer = TcpStream::connect(&target).await.unwrap();
    peer.write_all(&request(1, "add", &(1, 2))).await.unwrap();
    peer.shutdown().await.unwrap();
    let mut whole = Vec::new();
    soon("all it says", peer.read_to_end(&mut whole)).await.unwrap();
    let last = Header::decode(&whole[whole.len() - HEADER_LEN - 1..]).unwrap().unwrap();
    assert_eq!((last.kind, last.flags), (Kind::Response, Flags::default()));
    let hello = whole.len() - HEADER_LEN - 1;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let mut outcomes = HashSet::new();
    for cut in 0..=whole.len() {
        let probe = tokio::spawn({
            let uri = uri.clone();
            async move { ProbeClient::connect(uri).await?.with_timeout(5 * SECOND).add(1, 2).await }
        });
        let (client, _) = soon("a connection", listener.accept()).await.unwrap();
        let server = TcpStream::connect(&target).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        });
        // The client says nothing before it has read the hello.
        for part in [cut.min(hello), cut.saturating_sub(hello)] {
            let mut down = vec![0; part];
            soon("so many bytes", from_server.read_exact(&mut down)).await.unwrap();
            to_client.write_all(&down).await.unwrap();
        }
        if cut == hello {
            // Not before the call is sent: it would try another connection.
            soon("the answer", from_server.peek(&mut [0])).await.unwrap();
        }
        drop(to_client);
        let result = soon("the call", probe).await.unwrap();
        up.abort();
        match result {
            Ok(sum) => assert_eq!((sum, cut), (3, whole.len())),
            Err(error) => assert!(error.is_unavailable(), "cut at {cut}: {error:?}"),
        }
        outcomes.insert(cut == whole.len());
    }
    assert_eq!(outcomes.len(), 2);
}
