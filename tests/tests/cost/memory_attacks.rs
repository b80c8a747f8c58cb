//! What strangers can make a default server hold, measured in a process of its own, while somebody
//! else calls it.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use rpc_runtime::protocol::{Flags, Header, Kind};
use rpc_runtime::{Blob, Result, Server, Streaming, rpc_service};
use rpc_tests::process::{Process, SAYS, setting};
use rpc_tests::turn;
use rpc_tests::wire::{RawPeer, RawServer, arguments, frame};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{RwLockReadGuard, watch};
use tokio::task::{JoinHandle, JoinSet};

const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
/// Where the provider of a child that is a client is.
const PROVIDER: &str = "RPC_TESTS_PROVIDER";
/// What one attacker may make a default server hold at most, all of the process included.
const MOST: usize = 400 * MIB;

/// A byte on the wire, `80`, makes one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Wide {
    numbers: [u64; 32],
    others: [u64; 32],
}

#[rpc_service(name = "e2e.Victim")]
trait Victim {
    async fn ping(&self, n: u64) -> Result<u64>;
    /// Never answers.
    async fn hold(&self, blob: Blob) -> Result<()>;
    /// Never answers.
    async fn hold_rows(&self, rows: Vec<Wide>, rest: Blob) -> Result<()>;
    /// Has its thread, and the blob, for four seconds.
    #[rpc(blocking)]
    async fn digest(&self, blob: Blob) -> Result<()>;
    async fn back(&self, blob: Blob) -> Result<Blob>;
    /// Never takes an item.
    async fn ignore(&self, items: Streaming<Blob>) -> Result<()>;
    async fn make(&self, bytes: usize) -> Result<Blob>;
    /// The same, from a task of its own.
    async fn make_later(&self, bytes: usize) -> Result<Blob>;
    async fn items(&self, bytes: usize) -> Result<Streaming<Blob>>;
}

struct Provider;

impl Victim for Provider {
    async fn ping(&self, n: u64) -> Result<u64> {
        Ok(n)
    }
    async fn hold(&self, blob: Blob) -> Result<()> {
        std::future::pending::<()>().await;
        drop(blob);
        Ok(())
    }
    async fn hold_rows(&self, rows: Vec<Wide>, rest: Blob) -> Result<()> {
        std::future::pending::<()>().await;
        drop((rows, rest));
        Ok(())
    }
    async fn digest(&self, blob: Blob) -> Result<()> {
        std::thread::sleep(4 * SECOND);
        drop(blob);
        Ok(())
    }
    async fn back(&self, blob: Blob) -> Result<Blob> {
        Ok(blob)
    }
    async fn ignore(&self, items: Streaming<Blob>) -> Result<()> {
        std::future::pending::<()>().await;
        drop(items);
        Ok(())
    }
    async fn make(&self, bytes: usize) -> Result<Blob> {
        Ok(vec![7; bytes].into())
    }
    async fn make_later(&self, bytes: usize) -> Result<Blob> {
        tokio::task::yield_now().await;
        Ok(vec![7; bytes].into())
    }
    async fn items(&self, bytes: usize) -> Result<Streaming<Blob>> {
        Ok(Streaming::from_items(std::iter::repeat_with(move || vec![7; bytes].into())))
    }
}

pub(crate) const SERVER: &str = "memory-server";
pub(crate) const CLIENT: &str = "memory-client";

/// What the child processes do.
pub(crate) fn play(role: &str) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        if role == CLIENT {
            return hold_streams(&setting(PROVIDER)).await;
        }
        let server = Server::builder().provide(VictimServer::new(Provider));
        let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

/// Opens streams and reads none of them.
async fn hold_streams(provider: &str) {
    let victim = VictimClient::connect(provider).await.unwrap();
    println!("{SAYS}");
    let streams = (0..200).map(|_| victim.items(1));
    let held = futures::future::join_all(streams).await;
    std::future::pending::<()>().await;
    drop(held);
}

fn header(id: u64, name: &str) -> Header {
    let methods = VICTIM_DESCRIPTOR.methods();
    let method = methods.iter().find(|method| method.name() == name).unwrap();
    Header { id, method: method.id(), ..Header::new(Kind::Request) }
}

fn request(id: u64, name: &str, values: &impl serde::Serialize) -> Vec<u8> {
    frame(header(id, name), &arguments(values))
}

/// The arguments of a method that takes one blob.
fn blob(bytes: usize) -> Vec<u8> {
    arguments(&(Blob::from(vec![7; bytes]),))
}

/// A server in a process of its own, and a client that calls it all along.
struct Attacked {
    _turn: RwLockReadGuard<'static, ()>,
    server: Process,
    uri: String,
    stop: watch::Sender<bool>,
    bystander: JoinHandle<Vec<Duration>>,
}

impl Attacked {
    async fn start() -> Self {
        let _turn = turn::shared().await;
        let mut server = Process::start(SERVER, &[]);
        let uri = server.says();
        let victim = VictimClient::connect(&uri).await.unwrap().with_timeout(5 * SECOND);
        let (stop, stopped) = watch::channel(false);
        let bystander = tokio::spawn(async move {
            let mut took = Vec::new();
            while !*stopped.borrow() {
                let begun = Instant::now();
                assert_eq!(victim.ping(7).await.unwrap(), 7);
                took.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        });
        Self { _turn, server, uri, stop, bystander }
    }

    async fn connect(&self) -> RawPeer {
        RawPeer::connect(&self.uri).await
    }

    /// Ends the attack, and says how much memory the server had at most.
    async fn finish(self, attack: JoinSet<()>) -> usize {
        let peak = self.server.peak_memory();
        self.stop.send_replace(true);
        let mut took = self.bystander.await.unwrap();
        took.sort();
        let median = took[took.len() / 2];
        println!(
            "peak {} MiB; {} calls beside: median {median:?}, slowest {:?}",
            peak / MIB,
            took.len(),
            took.last()
        );
        // The slowest one says more of the machine than of the server.
        assert!(took.len() > 20 && median < SECOND / 4, "{median:?} of {}", took.len());
        drop(attack);
        assert!(peak < MOST, "{} MiB", peak / MIB);
        peak
    }
}

/// Sends what the server takes, and keeps the connection.
fn flood(attack: &mut JoinSet<()>, mut peer: RawPeer, pieces: Vec<Vec<u8>>) {
    attack.spawn(async move {
        for piece in &pieces {
            if peer.stream().write_all(piece).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
}

/// Sends many frames that differ in their ids alone, and keeps the connection.
fn flood_frames(
    attack: &mut JoinSet<()>,
    mut peer: RawPeer,
    headers: Vec<Header>,
    body: impl Into<std::sync::Arc<[u8]>>,
) {
    let body = body.into();
    attack.spawn(async move {
        for header in headers {
            let length = u32::try_from(body.len()).unwrap();
            let header = Header { length, ..header }.encode();
            for part in [&header[..], &body] {
                if peer.stream().write_all(part).await.is_err() {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    });
}

/// Lets an attack go on for a while.
async fn meanwhile() {
    tokio::time::sleep(2 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_waiting_requests_of_8_mib_are_not_all_held() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let headers = (1..=200).map(|id| header(id, "hold")).collect();
    flood_frames(&mut attack, attacked.connect().await, headers, blob(8 * MIB - 64));
    meanwhile().await;
    let peak = attacked.finish(attack).await;
    assert!(peak < 150 * MIB, "{} MiB for one connection", peak / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn oneways_of_a_connection_that_is_gone_still_count() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let uri = attacked.uri.clone();
    let body = std::sync::Arc::<[u8]>::from(blob(8 * MIB - 64));
    attack.spawn(async move {
        for id in 1..=60 {
            let mut peer = RawPeer::connect(&uri).await;
            let length = u32::try_from(body.len()).unwrap();
            let header = Header { length, kind: Kind::Oneway, id: 0, ..header(id, "hold") };
            let send = async {
                let _ = peer.stream().write_all(&header.encode()).await;
                let _ = peer.stream().write_all(&body).await;
            };
            let _ = tokio::time::timeout(SECOND / 2, send).await;
        }
        std::future::pending::<()>().await;
    });
    meanwhile().await;
    attacked.finish(attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_streams_with_an_item_of_8_mib_that_nobody_takes_are_not_all_held() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let mut peer = attacked.connect().await;
    let item = arguments(&Blob::from(vec![7; 8 * MIB - 64]));
    attack.spawn(async move {
        for id in 1..=200 {
            let begun = header(id, "ignore");
            let flags = begun.flags.with(Flags::STREAM);
            let mut front = frame(Header { flags, ..begun }, &arguments(&((),)));
            let length = u32::try_from(item.len()).unwrap();
            front.extend(Header { id, length, ..Header::new(Kind::StreamData) }.encode());
            for part in [&front, &item] {
                if peer.stream().write_all(part).await.is_err() {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    });
    meanwhile().await;
    let peak = attacked.finish(attack).await;
    assert!(peak < 200 * MIB, "{} MiB for one connection", peak / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_that_keep_the_last_byte_back_share_what_an_address_has() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let body = blob(8 * MIB - 64);
    let whole = Header { length: u32::try_from(body.len()).unwrap(), ..header(1, "hold") };
    let body = std::sync::Arc::<[u8]>::from(body);
    for _ in 0..200 {
        let (mut peer, body) = (attacked.connect().await, std::sync::Arc::clone(&body));
        attack.spawn(async move {
            let _ = peer.stream().write_all(&whole.encode()).await;
            let _ = peer.stream().write_all(&body[..body.len() - 1]).await;
            std::future::pending::<()>().await;
        });
    }
    meanwhile().await;
    attacked.finish(attack).await;
}

/// Connections that ask for much and read next to nothing.
async fn ask_and_do_not_read(connections: usize, method: &str, requests: u64, bytes: usize) {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let all: Vec<u8> = (1..=requests).flat_map(|id| request(id, method, &(bytes,))).collect();
    for _ in 0..connections {
        let (mut peer, all) = (attacked.connect().await, all.clone());
        attack.spawn(async move {
            let _ = peer.stream().write_all(&all).await;
            let mut read = [0; 2_000];
            while peer.stream().read_exact(&mut read).await.is_ok() {
                tokio::time::sleep(SECOND / 2).await;
            }
        });
    }
    meanwhile().await;
    attacked.finish(attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_connections_that_hardly_read_do_not_make_the_server_keep_all_answers() {
    ask_and_do_not_read(40, "make", 64, 8 * MIB - 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_tasks_wait_until_there_is_memory_for_them() {
    ask_and_do_not_read(40, "make_later", 8, 8 * MIB - 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_that_ask_for_one_large_answer_each_do_not_get_all_of_them() {
    ask_and_do_not_read(200, "make", 1, 8 * MIB - 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_a_client_does_not_read_share_a_window() {
    ask_and_do_not_read(10, "items", 200, MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_the_next_large_frame_counts() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let four = request(1, "ping", &vec![7_u8; MIB - 64]).repeat(4);
    for _ in 0..200 {
        flood(&mut attack, attacked.connect().await, vec![four.clone()]);
    }
    meanwhile().await;
    attacked.finish(attack).await;
}

/// The arguments of `hold_rows`, in little more than so many bytes.
fn rows(rows: u16, rest: usize) -> Vec<u8> {
    let mut body = vec![0x92, 0xdc];
    body.extend(rows.to_be_bytes());
    body.resize(body.len() + usize::from(rows), 0x80);
    body.extend(arguments(&Blob::from(vec![7; rest])));
    body
}

/// Connections with requests that never end, whose values are far larger than they were on the
/// wire.
async fn hold_rows(connections: usize, requests: u64, body: Vec<u8>) {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let headers: Vec<_> = (1..=requests).map(|id| header(id, "hold_rows")).collect();
    for _ in 0..connections {
        flood_frames(&mut attack, attacked.connect().await, headers.clone(), body.clone());
    }
    meanwhile().await;
    attacked.finish(attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_count_as_much_as_their_values_take() {
    hold_rows(1, 1_000, rows(5_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_only_what_is_free_cannot_hold_large_values_of_small_requests() {
    hold_rows(120, 2, rows(5_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_count_as_much_as_their_values_take() {
    hold_rows(4, 100, rows(10_000, 64 << 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thread_still_has_counts_when_its_connection_is_gone() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let uri = attacked.uri.clone();
    let body = std::sync::Arc::<[u8]>::from(blob(8 * MIB - 64));
    attack.spawn(async move {
        let mut begun = JoinSet::new();
        for _ in 0..100 {
            let (uri, body) = (uri.clone(), std::sync::Arc::clone(&body));
            begun.spawn(async move {
                let mut peer = RawPeer::connect(&uri).await;
                let length = u32::try_from(body.len()).unwrap();
                let header = Header { length, ..header(1, "digest") };
                let send = async {
                    let _ = peer.stream().write_all(&header.encode()).await;
                    let _ = peer.stream().write_all(&body).await;
                    tokio::time::sleep(SECOND / 10).await;
                };
                let _ = tokio::time::timeout(SECOND, send).await;
            });
            if begun.len() >= 8 {
                let _ = begun.join_next().await;
            }
        }
        std::future::pending::<()>().await;
    });
    meanwhile().await;
    attacked.finish(attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_answers_do_not_wait_where_large_ones_do() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    let victim = VictimClient::connect(&attacked.uri).await.unwrap().with_timeout(5 * SECOND);
    assert_eq!(victim.ping(1).await.unwrap(), 1);
    let body = blob(8 * MIB - 64);
    let mut peer = attacked.connect().await;
    peer.send(&frame(header(1, "back"), &body)).await;
    assert_eq!(peer.answer(1).await.header.status, 0);
    for _ in 0..5 {
        let headers = (1..=20).map(|id| header(id, "hold")).collect();
        flood_frames(&mut attack, attacked.connect().await, headers, body.clone());
    }
    meanwhile().await;
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = victim.back(Blob::from(vec![1; 10])).await;
        assert_eq!(answer.map(|blob| blob.len()), Ok(10), "after {:?}", begun.elapsed());
    }
    attacked.finish(attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_for_little_and_then_for_much_do_not_get_all_of_it() {
    let attacked = Attacked::start().await;
    let mut attack = JoinSet::new();
    for _ in 0..100 {
        let mut peer = attacked.connect().await;
        peer.send(&request(1, "ping", &(7,))).await;
        let answer = peer.answer(1).await;
        assert_eq!(answer.header.status, 0);
        flood(&mut attack, peer, vec![request(2, "make_later", &(8 * MIB - 64,))]);
    }
    meanwhile().await;
    attacked.finish(attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_hold_all_items_of_a_provider_that_asks_for_no_credit() {
    let _turn = turn::shared().await;
    let item = std::sync::Arc::new(arguments(&Blob::from(vec![7; 8 * MIB - 64])));
    let provider = RawServer::start(move |mut peer| {
        let item = std::sync::Arc::clone(&item);
        async move {
            while let Some(request) = peer.requested().await {
                let id = request.header.id;
                let flags = Flags::STREAM;
                let mut front =
                    frame(Header { id, flags, ..Header::new(Kind::Response) }, &arguments(&()));
                let length = u32::try_from(item.len()).unwrap();
                front.extend(Header { id, length, ..Header::new(Kind::StreamData) }.encode());
                for part in [&front, &*item] {
                    if peer.stream().write_all(part).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await;
    let uri = provider.uri();
    let client = tokio::task::spawn_blocking(move || {
        let mut client = Process::start(CLIENT, &[(PROVIDER, &uri)]);
        client.says();
        client
    });
    let mut client = client.await.unwrap();
    meanwhile().await;
    let peak = client.peak_memory();
    println!("peak {} MiB", peak / MIB);
    assert!(!client.has_ended() && peak < 200 * MIB, "{} MiB", peak / MIB);
}
