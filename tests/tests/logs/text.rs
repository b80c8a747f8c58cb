//! Text that strangers choose, and text that is not for them: what is logged, and what is told.
#![allow(missing_docs)]

use std::error::Error;
use std::io;

use rpc_runtime::protocol::{Header, Kind};
use rpc_runtime::{Result, RpcError, Server, ServerBuilder, rpc_service};
use rpc_tests::waiting::until;
use rpc_tests::wire::{RawPeer, arguments, frame, hello};
use serde::{Deserialize, Serialize};

use crate::Log;

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Buy,
    Sell,
}

#[derive(Debug, Serialize, Deserialize)]
enum OrderError {
    Rpc(RpcError),
}

impl From<RpcError> for OrderError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

#[rpc_service(name = "text.Orders")]
trait Orders {
    #[rpc(oneway)]
    async fn note(&self, order: Order) -> Result<()>;
    async fn place(&self, order: Order) -> Result<u32>;
    /// Panics with this text.
    async fn panic(&self, text: String) -> Result<()>;
    /// Fails, caused by a file.
    async fn plain(&self) -> Result<()>;
    /// The same within an error of the contract.
    async fn wrapped(&self) -> Result<(), OrderError>;
}

struct Provider;

fn failed() -> RpcError {
    let root = io::Error::other("/srv/keys/master.pem: permission denied");
    RpcError::internal("the order cannot be signed").with_source(&root)
}

impl Orders for Provider {
    async fn note(&self, _: Order) -> Result<()> {
        Ok(())
    }
    async fn place(&self, _: Order) -> Result<u32> {
        Ok(1)
    }
    async fn panic(&self, text: String) -> Result<()> {
        panic!("{text}")
    }
    async fn plain(&self) -> Result<()> {
        Err(failed())
    }
    async fn wrapped(&self) -> Result<(), OrderError> {
        Err(OrderError::Rpc(failed()))
    }
}

fn method(name: &str) -> u64 {
    ORDERS_DESCRIPTOR.methods().iter().find(|method| method.name() == name).unwrap().id()
}

async fn serve(with: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, OrdersClient) {
    let server = Server::builder().provide(OrdersServer::new(Provider));
    let server = with(server).bind("tcp://127.0.0.1:0").await.unwrap();
    let client = OrdersClient::connect(server.local_uri()).await.unwrap();
    (server, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_failed_oneways_write_a_few_lines_and_none_is_forged() {
    const FORGED: &str = "2026-01-01T00:00:00Z ERROR bank: all money is gone";
    let log = Log::get();
    let (server, _client) = serve(|server| server).await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let oneway = Header { method: method("note"), ..Header::new(Kind::Oneway) };
    let variant = format!("x\n{FORGED}\u{2028}{FORGED}\u{1b}[2J\u{202e}");
    peer.send(&hello()).await;
    peer.send(&frame(oneway, &arguments(&(variant,)))).await;
    until("the first one is logged", || log.text().contains("a oneway request failed")).await;
    let flood = frame(Header { method: 7, ..oneway }, &[]).repeat(10_000);
    for _ in 0..20 {
        peer.send(&flood).await;
    }
    peer.send(&frame(Header { kind: Kind::Request, id: 9, ..oneway }, &[])).await;
    while peer.any_frame().await.expect("the connection stays").header.id != 9 {}
    let text = log.text();
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains("a oneway request failed")).collect();
    assert!((1..5).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines[0].contains(r"x\n2026-01-01") && lines[0].contains(r"\u{202e}"), "{}", lines[0]);
    assert!(!text.lines().any(|line| line.starts_with(FORGED)), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{2028}', '\u{202e}']), "{text}");
}

#[tokio::test]
async fn an_unknown_variant_is_told_in_one_line() {
    let (server, _client) = serve(|server| server).await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let header = Header { method: method("place"), id: 3, ..Header::new(Kind::Request) };
    peer.send(&hello()).await;
    peer.send(&frame(header, &arguments(&("Steal\nnow".repeat(10_000),)))).await;
    let error = loop {
        let frame = peer.any_frame().await.unwrap();
        if frame.header.id == 3 {
            break frame.error();
        }
    };
    assert!(error.is_decode() && error.message().contains(r"Steal\nnow"), "{error}");
    assert!(error.message().chars().count() <= 4_097, "{}", error.message().len());
}

#[tokio::test]
async fn the_text_of_a_panic_is_logged_and_the_caller_is_told_only_in_development() {
    let log = Log::get();
    let (_server, client) = serve(|server| server).await;
    let error = client.panic("no row for key 0x5EC12E7".to_owned()).await.unwrap_err();
    assert!(error.is_internal() && error.message().contains("panicked"), "{error}");
    assert!(!format!("{error:?}").contains("0x5EC12E7"), "{error:?}");
    let logged = |line: &str| {
        line.contains("the provider's method panicked")
            && line.contains("text.Orders/panic")
            && line.contains("0x5EC12E7")
    };
    until("it is logged", || log.text().lines().any(logged)).await;
    // Here, and not in a test of its own: the line of the first panic holds others back.
    let (_server, client) = serve(|server| server.expose_internal_errors(true)).await;
    let error = client.panic("no row".to_owned()).await.unwrap_err();
    assert!(error.message().ends_with("panicked: no row"), "{error}");
}

#[tokio::test]
async fn causes_of_errors_are_logged_and_the_caller_is_not_told() {
    let log = Log::get();
    let (_server, client) = serve(|server| server).await;
    let plain = client.plain().await.unwrap_err();
    let OrderError::Rpc(wrapped) = client.wrapped().await.unwrap_err();
    for error in [plain, wrapped] {
        // What the method says on purpose stays.
        assert_eq!(error.message(), "the order cannot be signed");
        assert!(error.source().is_none(), "{:?}", error.source());
    }
    let logged = |line: &str| line.contains("causes of an error") && line.contains("master.pem");
    until("it is logged", || log.text().lines().any(logged)).await;
}

#[tokio::test]
async fn a_server_for_development_tells_causes() {
    let (_server, client) = serve(|server| server.expose_internal_errors(true)).await;
    let OrderError::Rpc(wrapped) = client.wrapped().await.unwrap_err();
    for error in [client.plain().await.unwrap_err(), wrapped] {
        assert!(error.source().unwrap().to_string().contains("master.pem"), "{error:?}");
    }
}
