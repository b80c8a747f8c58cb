//! Payloads around the sizes at which they are treated in another way, however they arrive.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Body, Frame, Kind};
use rpc_runtime::{Blob, Client, Encoding, Server, ServerBuilder};
use rpc_tests::bystander::Bystander;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use rpc_tests::random::Random;
use rpc_tests::waiting::{soon, until, within};
use rpc_tests::wire::{RawPeer, arguments, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

/// Where a payload is kept instead of copied, a frame has a buffer of its own, the buffer of an
/// announced length ends, and a large one.
const BOUNDARIES: [usize; 4] = [16 << 10, 64 << 10, 128 << 10, 1 << 20];

/// A text in which each place tells where it is, so that no two parts can change places.
fn text(bytes: usize, seed: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(&format!("{seed}:{}.", text.len()));
    }
    text.truncate(bytes);
    text
}

fn assert_same(got: &str, sent: &str) {
    // Not `assert_eq`: a megabyte is no message.
    let at = got.bytes().zip(sent.bytes()).position(|(got, sent)| got != sent);
    assert!(got == sent, "{} bytes and not {}, from {at:?} on", got.len(), sent.len());
}

async fn echoes(probe: &ProbeClient, sizes: impl IntoIterator<Item = usize>) {
    let texts: Vec<_> = sizes.into_iter().enumerate().map(|(n, size)| text(size, n)).collect();
    for at_once in texts.chunks(16) {
        let calls = join_all(at_once.iter().map(|text| probe.echo(text.clone())));
        for (got, sent) in within(30 * SECOND, "the answers", calls).await.iter().zip(at_once) {
            assert_same(got.as_ref().unwrap(), sent);
        }
    }
}

async fn echoes_blobs(probe: &ProbeClient, sizes: impl IntoIterator<Item = usize>) {
    let calls = sizes.into_iter().enumerate().map(|(n, size)| async move {
        let sent = (text(n % 7, n), Blob::from(text(size, n).into_bytes()), text(n % 5, n));
        let (before, blob, behind) = sent.clone();
        let got = probe.blob(before, blob, behind).await.unwrap();
        assert!(got == sent, "{size} bytes came back as {} others", got.1.len());
    });
    within(30 * SECOND, "the answers", join_all(calls)).await;
}

async fn client(uri: &str) -> ProbeClient {
    ProbeClient::connect(uri).await.unwrap().with_timeout(30 * SECOND)
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_each_size_around_a_boundary_come_back_as_they_were() {
    for uri in ["tcp://127.0.0.1:0", "memory:large-boundaries"] {
        let (server, _) = serve(uri).await;
        let probe = client(server.local_uri()).await;
        for boundary in [16 << 10, 64 << 10, 128 << 10] {
            // Header, array and str take up to 38 bytes of it.
            echoes(&probe, boundary - 40..boundary + 3).await;
        }
        // Alone on the connection, too: then nothing else shares the write.
        for boundary in BOUNDARIES {
            for size in [boundary - 38, boundary - 6, boundary - 4, boundary, boundary + 1] {
                echoes(&probe, [size]).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_each_size_around_a_boundary_come_back_as_they_were() {
    for uri in ["tcp://127.0.0.1:0", "memory:blob-boundaries"] {
        let (server, _) = serve(uri).await;
        let probe = client(server.local_uri()).await;
        for encoding in [Encoding::Named, Encoding::Compact] {
            let probe = probe.clone().with_encoding(encoding);
            for boundary in BOUNDARIES {
                let sizes = [boundary - 40, boundary - 1, boundary, boundary + 1, 3];
                echoes_blobs(&probe, sizes).await;
                for size in sizes {
                    echoes_blobs(&probe, [size]).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_payloads_in_any_order_come_back_as_they_were() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = client(server.local_uri()).await;
    let mut random = Random::new(5);
    let sizes: Vec<usize> = (0..400)
        .map(|_| match random.below(4) {
            0 => random.below(100) as usize,
            1 => (16 << 10) - 20 + random.below(40) as usize,
            2 => (64 << 10) - 50 + random.below(60) as usize,
            _ => random.below(200 << 10) as usize,
        })
        .collect();
    echoes(&probe, sizes).await;
}

/// How many bytes are handed on at a time, and how long after the ones before.
type Split = Arc<dyn Fn(&mut Random) -> usize + Send + Sync>;

/// Stands between clients and a server and hands on the bytes in pieces.
struct Dribble {
    uri: String,
    _connections: JoinSet<()>,
}

impl Dribble {
    async fn start(server: &Server, split: Split, pause: Option<Duration>) -> Self {
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
                pumps.spawn(pump(from_client, to_server, random(1), Arc::clone(&split), pause));
                pumps.spawn(pump(from_server, to_client, random(2), Arc::clone(&split), pause));
            }
        });
        Self { uri, _connections: tasks }
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut random: Random,
    split: Split,
    pause: Option<Duration>,
) {
    let mut input = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut input).await {
        let mut rest = &input[..n];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(split(&mut random).clamp(1, rest.len()));
            if to.write_all(piece).await.is_err() {
                return;
            }
            rest = behind;
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => tokio::task::yield_now().await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pieces_in_which_a_payload_arrives_do_not_matter() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let odd = |random: &mut Random| [1, 31, 32, 33, 4_093, 16_385][random.below(6) as usize];
    let around: Vec<usize> =
        BOUNDARIES.iter().flat_map(|at| [at - 38, at - 37, at - 5, at - 1, *at, at + 1]).collect();
    let splits: [(Split, Vec<usize>); 4] = [
        (Arc::new(|_: &mut Random| 1), vec![3, 16_345, 16_384, 65_499, 65_500]),
        (Arc::new(odd), around.clone()),
        (Arc::new(|_: &mut Random| 65_535), around.clone()),
        (Arc::new(|random: &mut Random| 1 + random.below(9_000) as usize), around),
    ];
    for (split, sizes) in splits {
        let dribble = Dribble::start(&server, split, None).await;
        let probe = client(&dribble.uri).await;
        echoes(&probe, sizes.iter().copied()).await;
    }
    until("all connections are freed", || server.channels().is_empty()).await;
}

/// What a handler does with the payload of each request and answer.
#[derive(Clone, Copy, Debug)]
enum Treat {
    /// The same bytes, elsewhere.
    Copy,
    /// The same bytes, the old ones are kept for long.
    KeepOriginal,
    /// The same bytes, put where they were.
    PutBack,
}

struct Treats(Treat, Vec<Frame<'static>>);

impl Treats {
    fn treat(&mut self, frame: &mut Frame<'_>) -> Handled {
        if !matches!(frame.header.kind, Kind::Request | Kind::Response) {
            return Ok(Flow::Next);
        }
        match self.0 {
            Treat::Copy => frame.body = frame.clone().into_owned().body,
            Treat::KeepOriginal => self.1.push(frame.clone().into_owned()),
            Treat::PutBack => {
                let bytes = match &frame.body {
                    Body::Slice(bytes) => Body::Slice(bytes),
                    Body::Owned(bytes) => Body::Owned(bytes.slice(..)),
                    _ => return Ok(Flow::Next),
                };
                frame.body = bytes;
            }
        }
        Ok(Flow::Next)
    }
}

impl ChannelHandler for Treats {
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.treat(frame)
    }

    fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.treat(frame)
    }
}

/// Puts another value in the place of each large answer.
struct Puts(&'static str);

impl ChannelHandler for Puts {
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        if frame.header.kind == Kind::Response && frame.body.as_slice().len() > 10_000 {
            let value = arguments(&self.0.repeat(frame.body.as_slice().len() / 3));
            frame.body = Body::Owned(value.into());
        }
        Ok(Flow::Next)
    }
}

async fn with_handler<H: ChannelHandler + 'static>(
    name: &str,
    handler: impl Fn() -> H + Clone + Send + Sync + 'static,
    at_server: bool,
) -> (Server, ProbeClient) {
    let mut server = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    let mut client = Client::builder().timeout(30 * SECOND);
    if at_server {
        let handler = handler.clone();
        server = server.pipeline(move || vec![Change::add_last("treat", handler())]);
    }
    client = client.pipeline(move || vec![Change::add_last("treat", handler())]);
    let server = server.bind(name).await.unwrap();
    let client = client.connect(server.local_uri()).await.unwrap();
    (server, ProbeClient::new(client))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_copies_or_keeps_large_payloads_changes_none() {
    for treat in [Treat::Copy, Treat::KeepOriginal, Treat::PutBack] {
        let handler = move || Treats(treat, Vec::new());
        let (_server, probe) = with_handler("tcp://127.0.0.1:0", handler, true).await;
        for boundary in BOUNDARIES {
            echoes(&probe, [boundary - 37, boundary - 3, boundary, boundary + 1, 5]).await;
            echoes_blobs(&probe, [boundary - 3, boundary, 5]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_that_a_handler_put_there_is_what_the_caller_gets() {
    let (_server, probe) = with_handler("tcp://127.0.0.1:0", || Puts("abc"), false).await;
    for size in [16_384, 65_536, 70_000, 1 << 20] {
        let got = join_all((0..8).map(|n| probe.echo(text(size, n)))).await;
        for got in got {
            let got = got.unwrap();
            assert!(got.len() > size / 3 * 2 && got.bytes().all(|byte| b"abc".contains(&byte)));
        }
        assert_eq!(probe.add(1, 2).await.unwrap(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_dropped_at_any_moment_tear_no_large_frame() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    // Slow enough for writes to end in the middle of a frame.
    let some = |random: &mut Random| 1 + random.below(60_000) as usize;
    let dribble = Dribble::start(&server, Arc::new(some), Some(SECOND / 5_000)).await;
    let probe = client(&dribble.uri).await;
    let mut random = Random::new(9);
    for round in 0..12_usize {
        let mut calls: Vec<_> = (0..24)
            .map(|n| {
                let probe = probe.clone();
                let size = [20, 16_384, 70_000, 200_000][random.below(4) as usize];
                let sent = text(size, round * 100 + n);
                tokio::spawn(async move {
                    let got = probe.echo(sent.clone()).await.unwrap();
                    assert_same(&got, &sent);
                })
            })
            .collect();
        // Some are dropped before they were polled, others are queued, sent, or answered.
        for _ in 0..16 {
            let at = random.below(calls.len() as u64) as usize;
            calls.swap_remove(at).abort();
            for _ in 0..random.below(30) {
                tokio::task::yield_now().await;
            }
            if random.below(3) == 0 {
                tokio::time::sleep(Duration::from_micros(random.below(3_000))).await;
            }
        }
        for call in calls {
            within(30 * SECOND, "a call that goes on", call).await.unwrap();
        }
    }
    echoes(&probe, [1, 16_384, 100_000]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_setting_of_flush_after_brings_all_answers() {
    for frames in [0, 1, 2, 7, usize::MAX] {
        let server = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
        let server = server.flush_after(frames).bind("tcp://127.0.0.1:0").await.unwrap();
        let client = Client::builder().flush_after(frames).timeout(20 * SECOND);
        let probe = ProbeClient::new(client.connect(server.local_uri()).await.unwrap());
        let mixed = (0..300).map(|n| match n % 50 {
            0 => 70_000,
            7 => 16_384,
            _ => n,
        });
        let texts: Vec<_> = mixed.enumerate().map(|(n, size)| text(size, n)).collect();
        let calls = join_all(texts.iter().map(|text| probe.echo(text.clone())));
        for (got, sent) in within(20 * SECOND, "the answers", calls).await.iter().zip(&texts) {
            assert_same(got.as_ref().unwrap(), sent);
        }
        // One that ends within a batch of others, and oneways behind it.
        let (slept, noted, sum) = soon("three calls", async {
            tokio::join!(probe.sleep(1), probe.note("n".repeat(20_000)), probe.add(1, 2))
        })
        .await;
        assert_eq!((slept.unwrap(), sum.unwrap()), (1, 3));
        noted.unwrap();
    }
}

async fn serve_with(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Server {
    let builder = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    settings(builder).bind("tcp://127.0.0.1:0").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_large_answers_gets_them_whole_when_it_does() {
    for frames in [1, usize::MAX] {
        let server = serve_with(|server| server.flush_after(frames)).await;
        let mut bystander = Bystander::start(server.local_uri()).await;
        let mut peer = RawPeer::connect(server.local_uri()).await;
        let ids = 1..=40_u64;
        for id in ids.clone() {
            let size = [70_000, 20_000, 5, 300_000][id as usize % 4];
            peer.send(&request(id, "echo", &(text(size, id as usize),))).await;
            if id == 20 {
                bystander.answered(20).await;
            }
        }
        bystander.answered(20).await;
        let mut missing: Vec<u64> = ids.collect();
        while !missing.is_empty() {
            let answer = peer.next().await.expect("an answer");
            let id = answer.header.id;
            let size = [70_000, 20_000, 5, 300_000][id as usize % 4];
            assert_same(&answer.value::<String>(), &text(size, id as usize));
            missing.retain(|missing| *missing != id);
        }
        peer.check().await;
        drop(peer);
        bystander.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_to_a_provider_that_does_not_read_end_with_their_deadlines() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let connecting = tokio::spawn(async move {
        ProbeClient::connect(uri).await.map(|probe| probe.with_timeout(SECOND / 2))
    });
    let (mut stuck, _) = soon("a connection", listener.accept()).await.unwrap();
    stuck.write_all(&rpc_tests::wire::hello()).await.unwrap();
    let probe = soon("connecting", connecting).await.unwrap().unwrap();
    let calls = join_all((0..100).map(|n| probe.echo(text(1 << 20, n))));
    let results = within(10 * SECOND, "calls with a deadline", calls).await;
    assert!(results.iter().all(|result| result.as_ref().is_err_and(|error| error.is_timeout())));
    let unsent = results.iter().filter(|got| got.as_ref().is_err_and(|e| e.is_safe_to_retry()));
    assert!(unsent.count() > 80, "most of them wait for room");
    // It reads at last: whole frames, and one more call.
    let mut peer = RawPeer::new(stuck);
    let call = tokio::spawn({
        let probe = probe.with_timeout(10 * SECOND);
        async move { probe.add(40, 2).await }
    });
    loop {
        let frame = peer.next().await.expect("the call");
        if frame.header.kind != Kind::Request {
            continue;
        }
        if frame.body.len() < 100 {
            peer.send(&rpc_tests::wire::ok(frame.header.id, &42)).await;
            break;
        }
        let sent: (String,) = rmp_serde::from_slice(&frame.body).unwrap();
        let seed = sent.0.split(':').next().unwrap().parse().unwrap();
        assert_same(&sent.0, &text(1 << 20, seed));
    }
    assert_eq!(soon("the call", call).await.unwrap().unwrap(), 42);
}
