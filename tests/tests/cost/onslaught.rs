//! Floods against a default server: it does not end, takes little memory, and nobody else waits.
//! One bad frame at a time is in `hostile::frames`, what providers do to clients in `onslaught_client`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use rpc_runtime::protocol::{Flags, Header, Kind};
use rpc_runtime::{Client, Result, Server, Streaming, rpc_service};
use rpc_tests::probe::{ProbeServer, Provider};
use rpc_tests::process::SAYS;
use rpc_tests::turn;
use rpc_tests::victim::{self, Victim, attack_time, server_endures};
use rpc_tests::wire::{RawPeer, arguments, bare, frame, hello, request, request_header};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The role of a child that serves streams.
pub(crate) const STREAMS: &str = "streams";

/// One connection that sends this over and over and takes in whatever comes.
async fn flood(what: &str, bytes: Vec<u8>) {
    let bytes = &bytes;
    server_endures(what, |uri| async move {
        let mut peer = RawPeer::connect(&uri).await;
        peer.send(&hello()).await;
        peer.flood(bytes, attack_time()).await
    })
    .await;
}

/// One connection that sends this over and over and reads nothing.
async fn flood_unread(what: &str, bytes: Vec<u8>) {
    let bytes = &bytes;
    server_endures(what, |uri| async move {
        let mut peer = RawPeer::connect(&uri).await;
        peer.send(&hello()).await;
        peer.flood_unread(bytes, attack_time()).await
    })
    .await;
}

/// `count` frames with ids in sequence, in one piece.
fn many(count: u64, one: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    (1..=count).flat_map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_cancelled_at_once() {
    let reset = |id| [request(id, "wait", &()), bare(Kind::Cancel, id)].concat();
    flood("requests and cancels", many(5_000, reset)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_cancelled_a_hundred_later() {
    let reset = |id: u64| {
        let cancelled = if id > 100 { id - 100 } else { 4_900 + id };
        [request(id, "sleep", &(50,)), bare(Kind::Cancel, cancelled)].concat()
    };
    flood("requests and late cancels", many(5_000, reset)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_for_all_requests() {
    flood("one id for all", request(7, "wait", &()).repeat(5_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_read_and_unread() {
    let pings = many(5_000, |id| bare(Kind::Ping, id));
    flood("pings", pings.clone()).await;
    flood_unread("pings, pongs unread", pings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos() {
    let services: Vec<_> = (0..1_500).map(|n| format!("service-{n:020}")).collect();
    let body = arguments(&std::collections::BTreeMap::from([("features", services)]));
    assert!((40 << 10..64 << 10).contains(&body.len()), "{}", body.len());
    flood("hellos of 45 KB", frame(Header::new(Kind::Hello), &body)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_over_the_limit_that_are_sent_all_the_same() {
    let header = Header { length: 9 << 20, ..request_header(1, "echo") };
    let mut bytes = header.encode().to_vec();
    bytes.resize(bytes.len() + (9 << 20), 0xa5);
    flood("payloads of 9 MiB", bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_announce_4_gib() {
    server_endures("announcements of 4 GiB", |uri| async move {
        let header = Header { length: u32::MAX, ..request_header(1, "echo") }.encode();
        let mut tasks = JoinSet::new();
        for _ in 0..200 {
            let uri = uri.clone();
            tasks.spawn(async move {
                let mut peer = RawPeer::connect(&uri).await;
                peer.send(&header).await;
                peer.flood(&[0; 1_000], attack_time()).await
            });
        }
        tasks.join_all().await.into_iter().sum()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_16_kib_of_metadata() {
    let entries: Vec<_> = (0..700).map(|n| (format!("key-{n:06}"), format!("{n:08}"))).collect();
    let map: std::collections::BTreeMap<_, _> = entries.into_iter().collect();
    let map = arguments(&map);
    assert!((13 << 10..=16 << 10).contains(&map.len()), "{}", map.len());
    let mut body = u32::try_from(map.len()).unwrap().to_be_bytes().to_vec();
    body.extend(map);
    body.extend([0x90]);
    let of = |name: &'static str, body: Vec<u8>| {
        move |id| frame(Header { flags: Flags::METADATA, ..request_header(id, name) }, &body)
    };
    flood("metadata of 14 KB, answered", many(300, of("who", body.clone()))).await;
    flood("metadata of 14 KB, waiting", many(300, of("wait", body))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_nothing_is_known_of() {
    let kinds = |id: u64| bare(Kind::Unknown(u8::try_from(id % 200).unwrap() + 40), id);
    flood("unknown kinds", many(5_000, kinds)).await;
    flood_unread("unknown kinds, answers unread", many(5_000, kinds)).await;
    let unknown = |id| frame(Header { method: id, ..request_header(id, "wait") }, &[0x90]);
    flood("unknown methods", many(5_000, unknown)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_the_wrong_direction() {
    let error = |id| frame(Header { id, ..Header::new(Kind::Error) }, &arguments(&("no", 1)));
    flood("errors", many(5_000, error)).await;
    flood("goaways", bare(Kind::GoAway, 0).repeat(5_000)).await;
    flood("answers", many(5_000, |id| bare(Kind::Response, id))).await;
    flood("cancels", many(5_000, |id| bare(Kind::Cancel, id))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oneways_that_fail() {
    let oneway = Header { kind: Kind::Oneway, ..request_header(0, "note") };
    flood("oneways that do not decode", frame(oneway, &[0xc1]).repeat(5_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_that_drip() {
    server_endures("a byte at a time", |uri| async move {
        let address = uri.strip_prefix("tcp://").unwrap().to_owned();
        let mut tasks = JoinSet::new();
        let bytes = request(1, "echo", &("x".repeat(100),));
        for _ in 0..1_000 {
            let (address, bytes) = (address.clone(), bytes.clone());
            tasks.spawn(async move {
                let Ok(mut stream) = TcpStream::connect(address).await else { return 0 };
                let mut sent = 0;
                let drip = async {
                    for byte in bytes {
                        if stream.write_all(&[byte]).await.is_err() {
                            break;
                        }
                        sent += 1;
                        tokio::time::sleep(attack_time() / 50).await;
                    }
                };
                let _ = tokio::time::timeout(attack_time(), drip).await;
                sent
            });
        }
        tasks.join_all().await.into_iter().sum()
    })
    .await;
}

/// Each has sent all but the end of a frame that is just small enough not to be a large one. A debug
/// build takes half a second to begin and to end so many connections, so this is about memory alone.
#[tokio::test(flavor = "multi_thread")]
async fn eight_thousand_connections_with_a_begun_frame_each_hold_little_memory() {
    let _turn = turn::mine().await;
    let mut victim = Victim::server().await;
    let attack = |uri: String| async move {
        let address = &uri.strip_prefix("tcp://").unwrap().to_owned();
        let mut bytes = hello();
        bytes.extend(request(1, "echo", &("x".repeat(63 << 10),)));
        bytes.truncate(bytes.len() - 100);
        let mut tasks = JoinSet::new();
        for _ in 0..8_000_u32.min(open_files().saturating_sub(200)) {
            let Ok(mut stream) = TcpStream::connect(address).await else { break };
            let bytes = bytes.clone();
            tasks.spawn(async move {
                let sent = tokio::time::timeout(attack_time(), stream.write_all(&bytes)).await;
                let sent = if sent.is_ok() { bytes.len() as u64 } else { 0 };
                (sent, stream)
            });
        }
        let all = tasks.join_all().await;
        all.iter().map(|(sent, _)| sent).sum()
    };
    let damage = victim.under(Client::builder(), attack).await;
    eprintln!("8,000 begun frames of 63 KiB: {damage}");
    assert!(damage.peak < victim::MOST_MEMORY, "{damage}");
}

/// The number of files that a process may have open.
fn open_files() -> u32 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go() {
    server_endures("connections that end at once", |uri| async move {
        let address = &uri.strip_prefix("tcp://").unwrap().to_owned();
        let one = async |n: u64| {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            let part = usize::try_from(n % 50).unwrap();
            let _ = stream.write_all(hello().get(..part).unwrap_or_default()).await;
            // Every second one is reset.
            if n.is_multiple_of(2) {
                let _ = stream.set_zero_linger();
            }
        };
        let mut ended = 0;
        let all = async {
            loop {
                one(ended).await;
                ended += 1;
            }
        };
        let _ = tokio::time::timeout(attack_time(), all).await;
        ended * 25
    })
    .await;
}

// ---- streams ---------------------------------------------------------------------------------

#[rpc_service(name = "e2e.Rivers")]
trait Rivers {
    /// Takes no item.
    async fn hold(&self, items: Streaming<String>) -> Result<()>;
    /// Texts of a thousand bytes without end.
    async fn endless(&self) -> Result<Streaming<String>>;
}

struct River;

impl Rivers for River {
    async fn hold(&self, items: Streaming<String>) -> Result<()> {
        let _items = items;
        std::future::pending().await
    }

    async fn endless(&self) -> Result<Streaming<String>> {
        Ok(Streaming::from_items(std::iter::repeat_with(|| "r".repeat(1_000))))
    }
}

pub(crate) fn serve_streams() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = Server::builder()
            .provide(ProbeServer::new(Provider::new("victim")))
            .provide(RiversServer::new(River))
            .bind("tcp://127.0.0.1:0")
            .await
            .unwrap();
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

fn river(id: u64, name: &str) -> Vec<u8> {
    let method = RIVERS_DESCRIPTOR.methods().iter().find(|method| method.name() == name).unwrap();
    let (flags, body): (_, &[u8]) = match name {
        "hold" => (Flags::STREAM, &[0x91, 0xc0]),
        _ => (Flags::default(), &[0x90]),
    };
    let header = Header { id, flags, method: method.id(), ..Header::new(Kind::Request) };
    frame(header, body)
}

async fn flood_streams(what: &str, reads: bool, bytes: Vec<u8>) {
    let bytes = &bytes;
    victim::repeated(what, async || {
        let mut victim = Victim::start(STREAMS, &[]).await;
        let attack = |uri: String| async move {
            let mut peer = RawPeer::connect(&uri).await;
            peer.send(&hello()).await;
            match reads {
                true => peer.flood(bytes, attack_time()).await,
                false => peer.flood_unread(bytes, attack_time()).await,
            }
        };
        victim.under(Client::builder(), attack).await
    })
    .await;
}

fn credit(id: u64, bytes: u32) -> Vec<u8> {
    frame(Header { id, ..Header::new(Kind::StreamCredit) }, &bytes.to_be_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_cancelled() {
    for name in ["hold", "endless"] {
        let both = |id| [river(id, name), bare(Kind::Cancel, id)].concat();
        flood_streams(&format!("{name}, cancelled"), true, many(2_000, both)).await;
    }
    let ended = |id| [river(id, "hold"), bare(Kind::StreamEnd, id)].concat();
    flood_streams("streams that end at once", true, many(2_000, ended)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_without_measure() {
    let mut bytes = many(50, |id| river(id, "endless"));
    bytes.extend(many(50, |id| credit(id, u32::MAX)).repeat(50));
    flood_streams("credit that is read", true, bytes.clone()).await;
    flood_streams("credit for what is not read", false, bytes).await;
    let nobodys = many(5_000, |id| credit(id, u32::MAX));
    flood_streams("credit for no stream", true, nobodys).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_nobody_takes_or_waits_for() {
    let item = |id| frame(Header { id, ..Header::new(Kind::StreamData) }, &arguments(&"i"));
    flood_streams("items of no stream", true, many(5_000, item)).await;
    let mut bytes = many(500, |id| river(id, "hold"));
    bytes.extend(many(500, item).repeat(200));
    flood_streams("small items that are not taken", true, bytes).await;
}
