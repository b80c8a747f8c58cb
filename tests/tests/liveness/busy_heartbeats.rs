//! Heartbeats on connections that have more to carry than they can.
#![allow(missing_docs)]

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled, Watermarks};
use rpc_runtime::protocol::{Frame, Header, Kind};
use rpc_runtime::{Blob, Client, Heartbeat, Server};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::{soon, within};
use rpc_tests::wire::{RawPeer, RawServer, bare, hello, request};
use tokio::io::AsyncReadExt;

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(200);

fn impatient() -> Heartbeat {
    Heartbeat::default().interval(INTERVAL).timeout(2 * INTERVAL)
}

/// Sends a ping when the last one was answered, and tells how long that took.
struct Pinger {
    id: u64,
    sent: Option<Instant>,
    round_trips: Sender<Duration>,
}

/// No id that heartbeats use.
const FIRST: u64 = 1 << 60;

impl Pinger {
    fn ping(&mut self, ctx: &mut ChannelContext<'_>) {
        self.id += 1;
        self.sent = Some(ctx.now());
        ctx.write(Frame::bare(Header { id: self.id, ..Header::new(Kind::Ping) }));
    }
}

impl ChannelHandler for Pinger {
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        if frame.header.kind == Kind::Hello {
            self.ping(ctx);
        }
        if frame.header.kind != Kind::Pong || frame.header.id != self.id {
            return Ok(Flow::Next);
        }
        let round_trip = self.sent.map(|sent| ctx.now() - sent);
        let _ = self.round_trips.send(round_trip.unwrap());
        self.ping(ctx);
        Ok(Flow::Stop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_between_frames_of_64_mib_that_go_both_ways() {
    const BYTES: usize = 64 << 20;

    let server = Server::builder()
        .provide(ProbeServer::new(Provider::new("large")))
        .max_payload(BYTES + 1_000)
        .heartbeat(impatient())
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let (round_trips, measured) = channel();
    let client = Client::builder()
        .max_payload(BYTES + 1_000)
        .timeout(60 * SECOND)
        .heartbeat(impatient())
        .pipeline(move || {
            let round_trips = round_trips.clone();
            vec![Change::add_first("pinger", Pinger { id: FIRST, sent: None, round_trips })]
        })
        .connect(server.local_uri())
        .await
        .unwrap();
    let probe = ProbeClient::new(client.clone());
    let blob = Blob::from(vec![7; BYTES]);
    let calls = (0..4).map(|_| probe.blob(String::new(), blob.clone(), String::new()));
    for answer in within(60 * SECOND, "the answers", join_all(calls)).await {
        assert!(answer.unwrap().1 == blob);
    }
    // It was one and the same connection all the while.
    assert_eq!(client.connections()[0].reconnects, 0);
    let round_trips: Vec<_> = measured.try_iter().collect();
    let longest = round_trips.iter().max().unwrap();
    assert!(*longest < 20 * SECOND && round_trips.len() > 4, "{round_trips:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_congested_client_answers_pings_ahead_of_what_it_has_queued() {
    const BYTES: usize = 64 << 10;

    let (congested, is_congested) = tokio::sync::oneshot::channel();
    let (done, mut answered) = tokio::sync::mpsc::channel(1);
    let is_congested = std::sync::Mutex::new(Some(is_congested));
    let server = RawServer::start(move |mut peer: RawPeer| {
        let is_congested = is_congested.lock().unwrap().take();
        let done = done.clone();
        async move {
            let Some(is_congested) = is_congested else { return };
            is_congested.await.unwrap();
            peer.send(&bare(Kind::Ping, 77)).await;
            // The client has it before any of what is queued can move.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut requests = 0;
            while let Some(frame) = peer.next().await {
                match frame.header.kind {
                    Kind::Pong if frame.header.id == 77 => break,
                    Kind::Request => requests += 1,
                    _ => {}
                }
            }
            done.send(requests).await.unwrap();
            peer.drain().await;
        }
    })
    .await;
    let client = Client::builder()
        .watermarks(Watermarks { high: 256 << 20, low: 128 << 20 })
        .connect(server.uri())
        .await
        .unwrap();
    let probe = ProbeClient::new(client).with_timeout(30 * SECOND);
    // More than any socket buffers.
    let calls = 64 << 20 >> 16;
    for _ in 0..calls {
        let probe = probe.clone();
        tokio::spawn(async move { probe.echo("x".repeat(BYTES)).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    congested.send(()).unwrap();
    let before = soon("the pong", answered.recv()).await.unwrap();
    assert!(before < calls / 2, "{before} of {calls} requests came before the pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_slowly_is_not_taken_for_dead_by_a_congested_server() {
    let server = Server::builder()
        .provide(ProbeServer::new(Provider::new("patient")))
        .heartbeat(impatient())
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let requests: Vec<u8> = (1..=8).flat_map(|id| request(id, "make", &(4 << 20,))).collect();
    peer.send(&hello()).await;
    peer.send(&requests).await;
    // Nothing but these bytes moves for several timeouts.
    let mut read = 0;
    let started = Instant::now();
    while started.elapsed() < 8 * INTERVAL {
        let mut some = vec![0; 16 << 10];
        let bytes = soon("some bytes", peer.stream().read(&mut some)).await.unwrap();
        assert!(bytes > 0, "the connection ended after {read} bytes");
        read += bytes;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut rest = Vec::new();
    while read + rest.len() < 8 * (4 << 20) {
        let bytes = soon("more bytes", peer.stream().read_buf(&mut rest)).await.unwrap();
        assert!(bytes > 0, "the connection ended after {} bytes", read + rest.len());
    }
}
