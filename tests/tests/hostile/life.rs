//! Peers that abuse what keeps connections alive and what ends them: heartbeats, time limits,
//! refusals, large frames, endings.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_runtime::protocol::{HEADER_LEN, Header, Hello, Kind};
use rpc_runtime::{Blob, Client, Heartbeat, Server, ServerBuilder};
use rpc_tests::bystander::Bystander;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use rpc_tests::waiting::{soon, until, within};
use rpc_tests::wire::{RawPeer, RawServer, arguments, bare, frame, hello, request, request_header};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SECOND: Duration = Duration::from_secs(1);

async fn bind(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Server {
    let server = Server::builder().provide(ProbeServer::new(Provider::new("life")));
    settings(server).bind("tcp://127.0.0.1:0").await.unwrap()
}

fn hello_every(heartbeat_ms: u32) -> Vec<u8> {
    let mut hello = Hello::default();
    hello.heartbeat_ms = heartbeat_ms;
    frame(Header::new(Kind::Hello), &arguments(&hello))
}

// ---- heartbeats ------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn each_ping_of_a_flood_that_is_read_is_answered_in_order() {
    const PINGS: u64 = 2_000;
    let server = bind(|server| server).await;
    let mut bystander = Bystander::start(server.local_uri()).await;
    let mut attacker = RawPeer::connect(server.local_uri()).await;
    // As many as may wait to be written are answered for sure: 1 KiB of pongs.
    for first in (1..=PINGS).step_by(20) {
        let pings: Vec<u8> = (first..first + 20).flat_map(|id| bare(Kind::Ping, id)).collect();
        attacker.send(&pings).await;
        for id in first..first + 20 {
            let pong = attacker.next().await.unwrap();
            assert_eq!((pong.header.kind, pong.header.id), (Kind::Pong, id));
        }
    }
    attacker.check().await;
    bystander.answered(2).await;
    bystander.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_that_nobody_asked_for_and_hellos_over_and_over_do_no_harm() {
    let server = bind(|server| server).await;
    let bystander = Bystander::start(server.local_uri()).await;
    for heartbeat_ms in [0, 1, u32::MAX] {
        let mut attacker = RawPeer::connect(server.local_uri()).await;
        attacker.send(&hello_every(heartbeat_ms)).await;
        for id in [0, 1, 2, u64::MAX] {
            attacker.send(&bare(Kind::Pong, id).repeat(1_000)).await;
        }
        for other in [1, u32::MAX, 0] {
            attacker.send(&hello_every(other).repeat(100)).await;
        }
        attacker.check().await;
    }
    bystander.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_for_pings_each_millisecond_gets_one_a_second() {
    let server = bind(|server| server).await;
    let mut attacker = RawPeer::connect(server.local_uri()).await;
    attacker.send(&hello_every(1)).await;
    let started = tokio::time::Instant::now();
    for _ in 0..5 {
        let ping = attacker.next().await.unwrap();
        assert_eq!(ping.header.kind, Kind::Ping);
        attacker.send(&bare(Kind::Pong, ping.header.id)).await;
    }
    assert!(started.elapsed() >= 4 * SECOND, "{:?}", started.elapsed());
}

// ---- time limits -----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_first_frame_that_drips_in_is_given_no_more_time_than_silence() {
    let server = bind(|server| server).await;
    let mut attacker = RawPeer::connect(server.local_uri()).await;
    let bytes = frame(request_header(1, "echo"), &[0; 100]);
    let started = tokio::time::Instant::now();
    for byte in bytes.chunks(1) {
        attacker.try_send(byte).await;
        tokio::time::sleep(SECOND).await;
        if server.channels().is_empty() && started.elapsed() > SECOND {
            break;
        }
    }
    let took = started.elapsed();
    assert!((10 * SECOND..13 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_no_substitute_for_reading() {
    let server = bind(|server| server.slow_reader_timeout(SECOND / 4)).await;
    let bystander = Bystander::start(server.local_uri()).await;
    let mut attacker = RawPeer::connect(server.local_uri()).await;
    attacker.send(&hello()).await;
    for id in 1..=4 {
        attacker.send(&request(id, "make", &(4 << 20,))).await;
    }
    let pings = bare(Kind::Ping, 1).repeat(10);
    let pinging = async {
        while attacker.stream().write_all(&pings).await.is_ok() {
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    soon("the end of the connection", pinging).await;
    until("its memory is freed", || server.channels().len() == 1).await;
    bystander.finish().await;
}

// ---- refusals --------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_clients_that_are_refused_and_do_not_read_holds_up_nobody() {
    let server = bind(|server| server.max_connections(2)).await;
    let bystander = Bystander::start(server.local_uri()).await;
    let mut second = RawPeer::connect(server.local_uri()).await;
    second.check().await;
    let mut refused = Vec::new();
    for _ in 0..300 {
        let mut peer = RawPeer::connect(server.local_uri()).await;
        peer.try_send(&[7; 1_000]).await;
        refused.push(peer);
    }
    second.check().await;
    let mut told = 0;
    for peer in &mut refused {
        told +=
            usize::from(peer.any_frame().await.is_some_and(|frame| frame.error().is_overloaded()));
    }
    assert!(told >= 1, "none was told why");
    assert_eq!(server.channels().len(), 2);
    drop((second, refused));
    until("there is room again", || server.channels().len() == 1).await;
    let mut next = RawPeer::connect(server.local_uri()).await;
    next.check().await;
    bystander.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_of_one_address_are_free_again_after_connections_that_never_spoke() {
    let server = bind(|server| server.max_connections_per_address(10)).await;
    for _ in 0..20 {
        let mut silent = Vec::new();
        for _ in 0..10 {
            silent.push(RawPeer::connect(server.local_uri()).await);
        }
        until("all are accepted", || server.channels().len() == 10).await;
        drop(silent);
        until("all are gone", || server.channels().is_empty()).await;
    }
    RawPeer::connect(server.local_uri()).await.check().await;
}

// ---- large frames ----------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_keeps_no_more_than_twice_its_size() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    // Just above sizes to which a buffer grows, where half of the frame is something else.
    for size in [(64 << 10) + 500, (128 << 10) + 500, (512 << 10) + 500, 3 << 20] {
        let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
        let before = "b".repeat(size - 300);
        let (_, blob, _) =
            probe.blob(before, Blob::from(vec![7; size]), String::new()).await.unwrap();
        assert_eq!(blob.len(), size);
        // The connection drops its own part of the buffer once the frame was handed on.
        let mut bytes = Bytes::from(blob);
        let mut tries = 0;
        let kept = loop {
            match bytes.try_into_mut() {
                Ok(all) => break all.capacity() + size - 300,
                Err(shared) => bytes = shared,
            }
            tries += 1;
            assert!(tries < 1_000, "somebody else keeps it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        // And a little for what belongs to the frame.
        assert!(kept <= 2 * size + 1_000, "{kept} bytes for {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_get_through_while_64_mib_go_both_ways() {
    const SIZE: usize = 64 << 20;
    let heartbeat = Heartbeat::default().interval(SECOND / 5);
    let server = bind(|server| server.max_payload(2 * SIZE).heartbeat(heartbeat)).await;
    let bystander = Bystander::start(server.local_uri()).await;
    let client = Client::builder().max_payload(2 * SIZE).heartbeat(heartbeat);
    let probe = ProbeClient::new(client.connect(server.local_uri()).await.unwrap());
    let blob = Blob::from(vec![7; SIZE]);
    let call = || probe.blob(String::new(), blob.clone(), String::new());
    let (a, b) = soon("the calls", async { tokio::join!(call(), call()) }).await;
    assert!(a.unwrap().1 == blob && b.unwrap().1 == blob);
    bystander.finish().await;
}

// ---- endings ---------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_in_the_middle_of_its_drain_leaves_no_call_waiting() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move { probe.wait().await })
        })
        .collect();
    until("all wait", || seen.waiting() == 20).await;
    let shutdown = tokio::time::timeout(SECOND / 10, server.shutdown()).await;
    assert!(shutdown.is_err(), "they are still waited for");
    for call in calls {
        let error = soon("a call", call).await.unwrap().unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    until("nothing goes on", || seen.waiting() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_client_ends_whatever_its_providers_do_meanwhile() {
    let calls = |probe: ProbeClient| async move {
        let mut done = 0;
        // Until the client is closed.
        loop {
            match probe.add(1, 2).await {
                Ok(sum) => assert_eq!(sum, 3),
                Err(error) if error.message() == "the client was closed" => return done,
                Err(error) => assert!(error.is_unavailable(), "{error:?}"),
            }
            done += 1;
            tokio::task::yield_now().await;
        }
    };
    for round in 0..30_u32 {
        let (server, _) = serve("tcp://127.0.0.1:0").await;
        let address = server.local_uri().to_owned();
        let client = Client::builder().connections(2).drain_timeout(SECOND / 5);
        let client = client.connect(&address).await.unwrap();
        let callers: Vec<_> =
            (0..4).map(|_| tokio::spawn(calls(ProbeClient::new(client.clone())))).collect();
        tokio::time::sleep(Duration::from_millis(u64::from(round % 5))).await;
        let dying = tokio::spawn(async move {
            match round % 3 {
                0 => drop(server),
                1 => drop(server.shutdown().await),
                _ => {
                    drop(server);
                    tokio::task::yield_now().await;
                    drop(Server::builder().bind(address).await);
                }
            }
        });
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_micros(u64::from(300 * (round % 7)))).await;
        }
        within(2 * SECOND, "closing", client.close()).await;
        for caller in callers {
            soon("a caller", caller).await.unwrap();
        }
        soon("the server's end", dying).await.unwrap();
        assert!(client.channels().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_client_does_not_wait_for_a_provider_that_reads_and_answers_nothing() {
    let server = RawServer::start(|mut peer| async move { peer.drain().await }).await;
    let client = Client::builder().drain_timeout(SECOND / 5).connect(server.uri()).await.unwrap();
    let probe = ProbeClient::new(client.clone());
    let call = tokio::spawn(async move { probe.echo("x".repeat(4 << 20)).await });
    tokio::time::sleep(SECOND / 10).await;
    let started = Instant::now();
    within(2 * SECOND, "closing", client.close()).await;
    assert!(started.elapsed() >= SECOND / 10, "the call was given its time");
    let error = soon("the call", call).await.unwrap().unwrap_err();
    assert!(error.message().contains("the client was closed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_that_come_and_go_leave_nothing_behind() {
    let server = bind(|server| server).await;
    let bystander = Bystander::start(server.local_uri()).await;
    let address: SocketAddr = server.local_uri().strip_prefix("tcp://").unwrap().parse().unwrap();
    for n in 0..3_000_usize {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let bytes = frame(request_header(1, "wait"), &arguments(&[0_u8; 0]));
        let _ = stream.write_all(&bytes[..n % (HEADER_LEN + 2)]).await;
    }
    until("all are gone", || server.channels().len() == 1).await;
    bystander.finish().await;
}
