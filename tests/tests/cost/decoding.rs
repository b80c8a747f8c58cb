//! Values that cost more than their bytes: nested without end, or of many large elements. Neither
//! ends a process, and none takes much memory of it.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use rpc_runtime::protocol::{Flags, Header, Kind};
use rpc_runtime::{Client, MethodDescriptor, Result, RpcError, Server, Streaming, rpc_service};
use rpc_tests::process::SAYS;
use rpc_tests::turn;
use rpc_tests::victim::Victim;
use rpc_tests::wire::{RawPeer, RawServer, arguments, bare, frame, ok};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub enum Expr {
    Num(i64),
    Neg(Box<Expr>),
    Add(Box<Expr>, Box<Expr>),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Endless(Option<Box<Endless>>);

#[derive(Debug, Serialize, Deserialize)]
pub struct Lists(Vec<Lists>);

/// 96 bytes, of which none need be on the wire.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sparse {
    numbers: [u64; 9],
    text: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Untagged {
    Number(i64),
    List(Vec<Untagged>),
}

#[rpc_service(name = "decoding.Values")]
#[allow(clippy::vec_box, reason = "an element may be a box")]
pub trait Values {
    async fn expr(&self, value: Expr) -> Result<Expr>;
    async fn endless(&self, value: Endless) -> Result<Endless>;
    async fn lists(&self, value: Lists) -> Result<usize>;
    async fn sum(&self, items: Streaming<Expr>) -> Result<i64>;
    async fn items(&self) -> Result<Streaming<Expr>>;
    async fn sparse(&self, values: Vec<Sparse>) -> Result<usize>;
    async fn boxes(&self, values: Vec<Box<Sparse>>) -> Result<usize>;
    async fn options(&self, values: Vec<Option<Sparse>>) -> Result<usize>;
    async fn bytes(&self, values: Vec<Box<u8>>) -> Result<usize>;
    async fn numbers(&self, values: Vec<u64>) -> Result<usize>;
    async fn texts(&self, values: Vec<String>) -> Result<usize>;
    async fn maps(&self, values: Vec<BTreeMap<u8, [u64; 4]>>) -> Result<usize>;
    async fn sets(&self, values: Vec<BTreeSet<[u64; 4]>>) -> Result<usize>;
    async fn untagged(&self, value: Untagged) -> Result<usize>;
}

struct Provider;

impl Values for Provider {
    async fn expr(&self, value: Expr) -> Result<Expr> {
        Ok(value)
    }
    async fn endless(&self, value: Endless) -> Result<Endless> {
        Ok(value)
    }
    async fn lists(&self, value: Lists) -> Result<usize> {
        Ok(value.0.len())
    }
    async fn sum(&self, mut items: Streaming<Expr>) -> Result<i64> {
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += if let Expr::Num(number) = item? { number } else { 0 };
        }
        Ok(sum)
    }
    async fn items(&self) -> Result<Streaming<Expr>> {
        Ok(Streaming::from_items([Expr::Num(1)]))
    }
    async fn sparse(&self, values: Vec<Sparse>) -> Result<usize> {
        Ok(values.len())
    }
    async fn boxes(&self, values: Vec<Box<Sparse>>) -> Result<usize> {
        Ok(values.len())
    }
    async fn options(&self, values: Vec<Option<Sparse>>) -> Result<usize> {
        Ok(values.len())
    }
    async fn bytes(&self, values: Vec<Box<u8>>) -> Result<usize> {
        Ok(values.len())
    }
    async fn numbers(&self, values: Vec<u64>) -> Result<usize> {
        Ok(values.len())
    }
    async fn texts(&self, values: Vec<String>) -> Result<usize> {
        Ok(values.len())
    }
    async fn maps(&self, values: Vec<BTreeMap<u8, [u64; 4]>>) -> Result<usize> {
        Ok(values.len())
    }
    async fn sets(&self, values: Vec<BTreeSet<[u64; 4]>>) -> Result<usize> {
        Ok(values.len())
    }
    async fn untagged(&self, value: Untagged) -> Result<usize> {
        Ok(if let Untagged::List(list) = value { list.len() } else { 0 })
    }
}

async fn serve() -> Server {
    let server = Server::builder().provide(ValuesServer::new(Provider));
    server.bind("tcp://127.0.0.1:0").await.unwrap()
}

/// The role of a child that serves.
pub(crate) const SERVER: &str = "decoding";

/// What the child does.
pub(crate) fn play() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = serve().await;
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

fn method(name: &str) -> &'static MethodDescriptor {
    VALUES_DESCRIPTOR.methods().iter().find(|method| method.name() == name).unwrap()
}

fn request(id: u64, name: &str) -> Header {
    Header { id, method: method(name).id(), deadline_ms: 10_000, ..Header::new(Kind::Request) }
}

const DEPTH: usize = 15_000;

/// `layer` so many times, around `core`.
fn nested(layer: &[u8], core: &[u8]) -> Vec<u8> {
    [&layer.repeat(DEPTH), core].concat()
}

fn chain(length: usize) -> Expr {
    (0..length).fold(Expr::Num(1), |expr, _| Expr::Neg(Box::new(expr)))
}

fn negations() -> Vec<u8> {
    nested(b"\x81\xa3Neg", b"\x81\xa3Num\x05")
}

fn says_too_deep(error: &RpcError) {
    assert!(error.is_decode() && error.message().contains("256 levels"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_argument_that_is_nested_without_end_ends_its_call_and_not_the_server() {
    let server = serve().await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let values = [
        ("expr", negations()),
        ("expr", nested(b"\x81\xa3Add\x92\x81\xa3Num\x05", b"\x81\xa3Num\x05")),
        ("endless", vec![1]),
        ("lists", nested(b"\x91", b"\x90")),
    ];
    for (id, (name, value)) in (1..).zip(values) {
        peer.send(&frame(request(id, name), &[&[0x91], &*value].concat())).await;
        let answer = peer.answer(id).await;
        says_too_deep(&answer.error());
        assert!(answer.is_unexecuted() && answer.error().message().contains("argument `value: "));
    }
    let header = Header { flags: Flags::STREAM, ..request(9, "sum") };
    peer.send(&frame(header, b"\x91\xc0")).await;
    peer.send(&frame(Header { id: 9, ..Header::new(Kind::StreamData) }, &negations())).await;
    let answer = loop {
        // The stream is cancelled, too.
        let frame = peer.next().await.unwrap();
        if frame.header.kind == Kind::Response {
            break frame;
        }
    };
    says_too_deep(&answer.error());
    let values = ValuesClient::connect(server.local_uri()).await.unwrap();
    // As many levels as the limit has, of which the arguments are one, go both ways.
    assert!(matches!(values.expr(chain(254)).await.unwrap(), Expr::Neg(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_or_an_item_that_is_nested_without_end_ends_its_call_and_not_the_client() {
    let server = RawServer::start(|mut peer: RawPeer| async move {
        while let Some(request) = peer.requested().await {
            let Header { id, method: called, .. } = request.header;
            if called == method("items").id() {
                let header = Header { id, flags: Flags::STREAM, ..Header::new(Kind::Response) };
                peer.send(&frame(header, b"\xc0")).await;
                let item = Header { id, ..Header::new(Kind::StreamData) };
                peer.send(&frame(item, &negations())).await;
                peer.send(&bare(Kind::StreamEnd, id)).await;
            } else if called == method("endless").id() {
                peer.send(&ok(id, &1)).await;
            } else if called == method("expr").id() {
                peer.send(&frame(Header { id, ..Header::new(Kind::Response) }, &negations())).await;
            } else {
                peer.send(&ok(id, &7)).await;
            }
        }
    })
    .await;
    let values = ValuesClient::connect(&server.uri()).await.unwrap();
    says_too_deep(&values.expr(Expr::Num(1)).await.unwrap_err());
    says_too_deep(&values.endless(Endless(None)).await.unwrap_err());
    let mut items = values.items().await.unwrap();
    says_too_deep(&items.next().await.unwrap().unwrap_err());
    assert_eq!(values.sparse(Vec::new()).await.unwrap(), 7);
}

/// A body of one argument, an array of so many of these elements.
fn array(element: &[u8], count: usize) -> Vec<u8> {
    let mut body = vec![0x91, 0xdd];
    body.extend(u32::try_from(count).unwrap().to_be_bytes());
    body.extend(element.repeat(count));
    body
}

/// The same, of the largest size.
fn full_of(element: &[u8]) -> Vec<u8> {
    const LARGEST: usize = 8 << 20;
    array(element, (LARGEST - 6) / element.len())
}

/// Most memory that one body may make a server take, of which it has 20 MiB anyway.
const MOST_MEMORY: u64 = 320 << 20;

/// Sends the body to a server of its own; says whether it was decoded, and what memory the server
/// had at its peak.
async fn attack(name: &str, body: &[u8]) -> (bool, u64) {
    let _turn = turn::shared().await;
    let mut server = Victim::start(SERVER, &[]).await;
    let mut peer = RawPeer::connect(server.says()).await;
    peer.send(&frame(request(1, name), body)).await;
    let answer = peer.answer(1).await;
    server.lives();
    let decoded = answer.header.status == 0;
    if !decoded {
        let error = answer.error();
        assert!(error.is_decode() && error.message().contains("more memory"), "{error}");
    }
    let peak = server.peak();
    eprintln!("{name}, {} bytes, decoded: {decoded}, peak {} MiB", body.len(), peak >> 20);
    (decoded, peak)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_takes_much_more_memory_than_it_has_bytes() {
    let mut deep_lists = vec![0x91];
    deep_lists.extend([0xdd, 0, 0x7f, 0, 0].repeat(120));
    deep_lists.resize(8 << 20, 0x90);
    // Each level above an element may copy it.
    let deep_untagged = [&[0x91; 9], &array(&[1], 900_000)[1..]].concat();
    let bodies = [
        ("sparse", full_of(b"\x80")),
        ("boxes", full_of(b"\x80")),
        ("options", full_of(b"\xc0")),
        ("bytes", full_of(b"\x01")),
        ("texts", full_of(b"\xa0")),
        ("maps", full_of(b"\x81\x01\x94\x01\x01\x01\x01")),
        ("sets", full_of(b"\x91\x94\x01\x01\x01\x01")),
        ("lists", deep_lists),
        ("untagged", full_of(b"\x01")),
        ("untagged", deep_untagged),
    ];
    for (name, body) in bodies {
        let (decoded, peak) = attack(name, &body).await;
        assert!(!decoded && peak < MOST_MEMORY, "{name}: {decoded}, {} MiB", peak >> 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_body_of_each_kind_that_is_taken_does_not_take_much_memory_either() {
    let deep_untagged = [&[0x91; 100], &array(&[1], 70_000)[1..]].concat();
    // Just under the limit of 32 MiB.
    let bodies = [
        ("sparse", array(b"\x80", 345_000)),
        ("boxes", array(b"\x80", 345_000)),
        ("bytes", array(b"\x01", 4_190_000)),
        ("texts", array(b"\xa1x", 1_340_000)),
        ("maps", array(b"\x81\x01\x94\x01\x01\x01\x01", 85_000)),
        ("sets", array(b"\x91\x94\x01\x01\x01\x01", 590_000)),
        ("untagged", array(b"\x01", 1_040_000)),
        ("untagged", deep_untagged),
        ("numbers", array(b"\x01", 4_190_000)),
    ];
    for (name, body) in bodies {
        let (decoded, peak) = attack(name, &body).await;
        assert!(decoded && peak < MOST_MEMORY, "{name}: {decoded}, {} MiB", peak >> 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_arguments_results_and_items_can_be_limited_at_each_end() {
    fn is_refused(error: &RpcError) -> bool {
        error.is_decode() && error.message().contains("limit of 1000 bytes")
    }
    let server = Server::builder().max_decoded(1_000).provide(ValuesServer::new(Provider));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let values = ValuesClient::connect(server.local_uri()).await.unwrap();
    assert_eq!(values.numbers(vec![1; 100]).await.unwrap(), 100);
    assert!(is_refused(&values.numbers(vec![1; 200]).await.unwrap_err()));
    assert_eq!(values.sum(Streaming::from_items([chain(0), chain(20)])).await.unwrap(), 1);
    let error = values.sum(Streaming::from_items([chain(0), chain(100)])).await.unwrap_err();
    assert!(is_refused(&error), "{error}");

    let server = serve().await;
    let client = Client::builder().max_decoded(1_000).connect(server.local_uri()).await.unwrap();
    let values = ValuesClient::new(client);
    values.expr(chain(20)).await.unwrap();
    assert!(is_refused(&values.expr(chain(100)).await.unwrap_err()));
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_values_that_fill_a_body_are_taken() {
    let numbers: Vec<u64> = (0..900_000).map(|n| n << 40).collect();
    let texts: Vec<String> = (0..600_000).map(|n| format!("text {n:06}")).collect();
    let sparse: Vec<Sparse> =
        (0..100_000).map(|n| Sparse { numbers: [n; 9], text: "a text".into() }).collect();
    let sparse = rmp_serde::to_vec(&(sparse,)).unwrap();
    for (name, body) in [("numbers", arguments(&(numbers,))), ("texts", arguments(&(texts,)))] {
        assert!(attack(name, &body).await.0, "{name}");
    }
    assert!(sparse.len() < 8 << 20 && attack("sparse", &sparse).await.0);
}
