//! Floods against a server whose calls pass interceptors that wait, are slow or panic, and calls with
//! metadata that is large in memory.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::protocol::{Flags, Header, Kind};
use rpc_runtime::tower::Layered;
use rpc_runtime::{Call, Client, Interceptor, Next, Reply, Result, RpcError, Server};
use rpc_tests::probe::{ProbeServer, Provider};
use rpc_tests::process::SAYS;
use rpc_tests::victim::{self, Victim, attack_time};
use rpc_tests::wire::{RawPeer, arguments, bare, frame, hello, request_header};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// The role of a child whose calls pass interceptors.
pub(crate) const CHAIN: &str = "chain";

/// Does what the metadata of a call says.
struct Obeys;

impl Interceptor for Obeys {
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply> {
        match call.metadata("do") {
            Some("wait") => std::future::pending::<()>().await,
            Some("slow") => tokio::time::sleep(Duration::from_millis(20)).await,
            Some("panic") => panic!("as the call says"),
            Some("refuse") => return Err(RpcError::permission_denied("as the call says")),
            Some("again") => {
                let _ = next.again().run(call).await;
            }
            Some("change") => {
                call.set_metadata("more", "x".repeat(1_000));
                return Ok(next.run(call).await?.with_metadata("m", "y".repeat(15_000)));
            }
            _ => {}
        }
        next.run(call).await
    }
}

/// The role of a child whose calls pass layers of tower.
pub(crate) const LAYERED: &str = "layered";

pub(crate) fn play(role: &str) {
    std::panic::set_hook(Box::new(|_| {}));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = Server::builder().provide(ProbeServer::new(Provider::new("victim")));
        let server = match role {
            LAYERED => server.interceptor(Layered::new(
                tower::ServiceBuilder::new()
                    .load_shed()
                    .concurrency_limit(10_000)
                    .timeout(Duration::from_secs(5))
                    .into_inner(),
            )),
            _ => server.interceptor(Obeys),
        };
        let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

/// The metadata section of a payload.
fn section(entries: &[(String, String)]) -> Vec<u8> {
    let map: std::collections::BTreeMap<_, _> = entries.iter().cloned().collect();
    let map = arguments(&map);
    assert!(map.len() <= 16 << 10, "{}", map.len());
    let mut body = u32::try_from(map.len()).unwrap().to_be_bytes().to_vec();
    body.extend(map);
    body
}

/// As many entries as fit: each takes a few bytes on the wire, and more in memory.
fn dense() -> Vec<u8> {
    let keys = (0..4_090_u32).map(|n| {
        let (high, low) = (n / 100, n % 100);
        let key = [high, low].map(|part| char::from_u32(part + 20).unwrap());
        (key.iter().collect(), String::new())
    });
    section(&keys.collect::<Vec<_>>())
}

fn call(id: u64, name: &str, does: &str, arguments: &[u8]) -> Vec<u8> {
    let body = [section(&[("do".into(), does.into())]), arguments.to_vec()].concat();
    frame(Header { flags: Flags::METADATA, ..request_header(id, name) }, &body)
}

/// Several connections that send this over and over, without reading in the end.
async fn flood(what: &str, role: &'static str, connections: usize, bytes: Vec<u8>) {
    let bytes = &bytes;
    victim::repeated(what, async || {
        let mut victim = match role {
            CHAIN | LAYERED => Victim::start(role, &[]).await,
            _ => Victim::server().await,
        };
        let attack = |uri: String| async move {
            let mut tasks = JoinSet::new();
            for _ in 0..connections {
                let (uri, bytes) = (uri.clone(), bytes.clone());
                tasks.spawn(async move {
                    let mut peer = RawPeer::connect(&uri).await;
                    peer.try_send(&hello()).await;
                    let sent = peer.flood(&bytes, attack_time()).await;
                    // It stays for as long as the others.
                    tokio::time::sleep(attack_time()).await;
                    sent
                });
            }
            tasks.join_all().await.into_iter().sum()
        };
        victim.under(Client::builder(), attack).await
    })
    .await;
}

fn many(count: u64, one: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    (1..=count).flat_map(one).collect()
}

/// As many as a connection may have, each with as many entries as fit.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_small_on_the_wire_and_large_in_memory() {
    let body = [dense(), vec![0x90]].concat();
    let of = |id| {
        let header =
            Header { flags: Flags::METADATA, deadline_ms: 0, ..request_header(id, "wait") };
        frame(header, &body)
    };
    let bytes = &[hello(), many(1_000, of), bare(Kind::Ping, 1)].concat();
    let _turn = rpc_tests::turn::mine().await;
    let mut victim = Victim::server().await;
    let mut peer = RawPeer::connect(victim.says()).await;
    // Either all is read, or no more is.
    let all = async {
        peer.stream().write_all(bytes).await.unwrap();
        peer.next().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(4), all).await;
    victim.lives();
    let peak = victim.peak() >> 20;
    eprintln!("dense metadata: peak {peak} MiB");
    assert!(peak < 150, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_arguments_that_wait_in_an_interceptor() {
    for bytes in [60 << 10, 64 << 10, 1 << 20] {
        let arguments = arguments(&("x".repeat(bytes),));
        let of = |id| call(id, "echo", "wait", &arguments);
        flood(&format!("{bytes} bytes that wait"), CHAIN, 8, many(50, of)).await;
    }
    let oneway = |id| {
        let mut bytes = call(id, "note", "wait", &arguments(&("x".repeat(60 << 10),)));
        bytes[3] = 4;
        bytes[8..16].fill(0);
        bytes
    };
    flood("oneways that wait", CHAIN, 8, many(50, oneway)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_calls_through_interceptors_that_panic_refuse_and_are_slow() {
    for does in ["panic", "refuse", "again", "slow", "change"] {
        let of = |id| call(id, "echo", does, &arguments(&("x",)));
        flood(does, CHAIN, 2, many(500, of)).await;
    }
    for does in ["wait", "slow"] {
        let of =
            |id| [call(id, "echo", does, &arguments(&("x",))), bare(Kind::Cancel, id)].concat();
        flood(&format!("{does}, cancelled"), CHAIN, 2, many(500, of)).await;
        let of = |id| {
            let late = bare(Kind::Cancel, if id > 100 { id - 100 } else { 400 + id });
            [call(id, "echo", does, &arguments(&("x",))), late].concat()
        };
        flood(&format!("{does}, cancelled later"), CHAIN, 2, many(500, of)).await;
    }
    let of = |id| call(id, "block", "slow", &arguments(&(20,)));
    flood("blocking behind a slow interceptor", CHAIN, 2, many(500, of)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_for_calls_that_wait_in_an_interceptor() {
    let stream = |id| {
        let mut bytes = call(id, "echo", "wait", &[0x91, 0xc0]);
        bytes[5] |= 16;
        bytes
    };
    let item = |id| {
        let item = arguments(&"i".repeat(60 << 10));
        frame(Header { id, ..Header::new(Kind::StreamData) }, &item)
    };
    let both = |id| [stream(id), item(id), item(id)].concat();
    flood("streams before an interceptor", CHAIN, 4, many(400, both)).await;
    let dropped = |id| [both(id), bare(Kind::Cancel, id)].concat();
    flood("streams before an interceptor, cancelled", CHAIN, 4, many(400, dropped)).await;
}

/// The requests are behind a slow interceptor together, and their methods run at about the same time.
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_behind_a_slow_interceptor() {
    for does in ["go", "slow"] {
        let of = |id| call(id, "make", does, &arguments(&(4 << 20,)));
        let bytes = &[hello(), many(1_000, of)].concat();
        victim::repeated(&format!("answers of 4 MiB, {does}"), async || {
            let mut victim = Victim::start(CHAIN, &[]).await;
            let attack = |uri: String| async move {
                let mut peer = RawPeer::connect(&uri).await;
                peer.try_send(bytes).await;
                // Nothing is read.
                tokio::time::sleep(3 * attack_time()).await;
                bytes.len() as u64
            };
            victim.under(Client::builder(), attack).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_calls_through_layers_of_tower() {
    let arguments = arguments(&("x".repeat(60 << 10),));
    let of = |id| frame(request_header(id, "echo"), &arguments);
    flood("calls through layers", LAYERED, 4, many(100, of)).await;
    let cancelled = |id| [of(id), bare(Kind::Cancel, id)].concat();
    flood("calls through layers, cancelled", LAYERED, 4, many(100, cancelled)).await;
    let waiting = |id| frame(request_header(id, "sleep"), &[0x91, 50]);
    flood("calls that wait for a layer", LAYERED, 4, many(2_000, waiting)).await;
}
