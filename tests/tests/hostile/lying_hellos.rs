//! Providers whose hello says what is not so.
#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::protocol::{Flags, Header, Hello, HelloService, Kind};
use rpc_runtime::{Client, Result, rpc_service};
use rpc_tests::waiting::{soon, within};
use rpc_tests::wire::{RawPeer, RawServer, arguments, frame, ok};
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Value {
    a: u32,
    b: String,
}

#[rpc_service]
trait Echo {
    async fn echo(&self, value: Value) -> Result<Value>;
}

struct Same;
impl Echo for Same {
    async fn echo(&self, value: Value) -> Result<Value> {
        Ok(value)
    }
}

/// The method's id, and its fingerprint.
fn told() -> (u64, u64) {
    rpc_runtime::Service::fingerprints(&EchoServer::new(Same))[0]
}

fn hello(services: Vec<Vec<(u64, u64)>>, limits: (u32, u32)) -> Vec<u8> {
    let mut hello = Hello::default();
    (hello.max_requests, hello.max_payload) = limits;
    hello.services.extend(services.into_iter().map(|methods| {
        let mut service = HelloService::default();
        service.name = "Echo".to_owned();
        service.methods = methods;
        service
    }));
    frame(Header::new(Kind::Hello), &arguments(&hello))
}

fn value(n: u32) -> Value {
    Value { a: n, b: format!("b{n}") }
}

/// An answer with this payload, and a flag that may not be true.
fn response(id: u64, body: &[u8], compact: bool) -> Vec<u8> {
    let flags = if compact { Flags::COMPACT } else { Flags::default() };
    frame(Header { id, flags, ..Header::new(Kind::Response) }, body)
}

/// What requests and answers look like with a provider that sends this greeting in these pieces.
/// It reads both forms and answers in the one that was not asked for.
async fn contrary(greeting: Vec<u8>, piece: usize) -> RawServer {
    RawServer::start_rude(move |mut peer: RawPeer| {
        let greeting = greeting.clone();
        async move {
            for piece in greeting.chunks(piece) {
                peer.try_send(piece).await;
                tokio::task::yield_now().await;
            }
            while let Some(request) = peer.requested().await {
                let compact = request.header.flags.contains(Flags::COMPACT);
                let (value,): (Value,) = rmp_serde::from_slice(&request.body).unwrap();
                let body = match compact {
                    true => rmp_serde::to_vec_named(&value).unwrap(),
                    false => rmp_serde::to_vec(&value).unwrap(),
                };
                let flag = value.a % 2 == 0;
                peer.try_send(&response(request.header.id, &body, flag)).await;
            }
        }
    })
    .await
}

async fn check(server: &RawServer) {
    let echo = EchoClient::connect(server.uri()).await.unwrap().with_timeout(5 * SECOND);
    for n in 0..20 {
        assert_eq!(soon("an answer", echo.echo(value(n))).await.unwrap(), value(n));
    }
    let many = futures::future::join_all((0..200).map(|n| echo.echo(value(n))));
    for (n, got) in soon("all answers", many).await.into_iter().enumerate() {
        assert_eq!(got.unwrap(), value(n as u32));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_the_form_that_was_not_asked_for_read_back_whatever_their_flag_says() {
    let (id, fingerprint) = told();
    for methods in [vec![], vec![(id, fingerprint)], vec![(id, 3)]] {
        check(&contrary(hello(vec![methods], (0, 0)), usize::MAX).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_with_thousands_of_methods_or_ids_twice_or_in_pieces_is_a_hello() {
    let (id, fingerprint) = told();
    let mut many: Vec<_> = (0..3_000).map(|n| (n, n)).collect();
    many.push((id, fingerprint));
    let twice = vec![(id, 5), (id, fingerprint), (id, 0), (id, fingerprint), (id, 6)];
    let late = vec![vec![(1, 1); 1_024]; 4];
    let late = late.into_iter().chain([vec![(id, fingerprint)]]).collect();
    for services in [vec![many.clone()], vec![twice.clone(), twice], late] {
        for piece in [1_usize, 7, 33, 5_000, usize::MAX] {
            check(&contrary(hello(services.clone(), (0, 0)), piece).await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_hello_changes_nothing() {
    let (id, fingerprint) = told();
    for (first, second) in [(fingerprint, 1), (1, fingerprint), (0, fingerprint)] {
        let mut greeting = hello(vec![vec![(id, first)]], (0, 0));
        greeting.extend(hello(vec![vec![(id, second)]], (1, 1)));
        let server = RawServer::start_rude(move |mut peer: RawPeer| {
            let greeting = greeting.clone();
            async move {
                peer.try_send(&greeting).await;
                while let Some(request) = peer.requested().await {
                    let compact = request.header.flags.contains(Flags::COMPACT);
                    assert!(compact || first != fingerprint);
                    peer.try_send(&ok(request.header.id, &value(u32::from(compact)))).await;
                }
            }
        })
        .await;
        let echo = EchoClient::connect(server.uri()).await.unwrap().with_timeout(5 * SECOND);
        for n in 0..5 {
            let compact = u32::from(first == fingerprint);
            assert_eq!(echo.echo(value(n)).await.unwrap(), value(compact));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_at_a_time_is_enough_for_all_calls_in_the_end() {
    let (id, fingerprint) = told();
    check(&contrary(hello(vec![vec![(id, fingerprint)]], (1, 0)), usize::MAX).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_no_call_fits_fails_each_of_them_unsent_and_hangs_none() {
    let (id, fingerprint) = told();
    for limit in [1, 5, 8] {
        let server = contrary(hello(vec![vec![(id, fingerprint)]], (1, limit)), 3).await;
        let echo = EchoClient::connect(server.uri()).await.unwrap().with_timeout(5 * SECOND);
        for n in 100_000..100_005 {
            let error = soon("a refusal", echo.echo(value(n))).await.unwrap_err();
            assert!(error.is_too_large() && error.is_safe_to_retry(), "{error}");
        }
    }
    // What is too large named may fit compact, and then does.
    let compact = rmp_serde::to_vec(&(value(7),)).unwrap().len() as u32;
    let methods = vec![vec![(id, fingerprint)]];
    check_one(&contrary(hello(methods, (0, compact)), usize::MAX).await, value(7)).await;
}

async fn check_one(server: &RawServer, value: Value) {
    let echo = EchoClient::connect(server.uri()).await.unwrap().with_timeout(5 * SECOND);
    assert_eq!(echo.echo(value.clone()).await.unwrap(), value);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_comes_late_or_never_whole_holds_no_call_beyond_its_deadline() {
    let whole = hello(vec![vec![told()]], (0, 0));
    // Late.
    let server = RawServer::start_rude({
        let whole = whole.clone();
        move |mut peer: RawPeer| {
            let whole = whole.clone();
            async move {
                tokio::time::sleep(SECOND).await;
                peer.try_send(&whole).await;
                while let Some(request) = peer.requested().await {
                    peer.try_send(&ok(request.header.id, &value(1))).await;
                }
            }
        }
    })
    .await;
    let echo = within(5 * SECOND, "connecting", EchoClient::connect(server.uri())).await;
    let echo = echo.unwrap().with_timeout(5 * SECOND);
    assert_eq!(soon("an answer", echo.echo(value(1))).await.unwrap(), value(1));
    // Cut, with the connection held open: the call's deadline bounds it.
    for cut in [0, 1, 31, 32, 33, whole.len() - 1] {
        let part = whole[..cut].to_vec();
        let server = RawServer::start_rude(move |mut peer: RawPeer| {
            let part = part.clone();
            async move {
                peer.try_send(&part).await;
                peer.drain().await;
            }
        })
        .await;
        let call = async {
            let client = Client::builder().connect_timeout(SECOND / 4).timeout(SECOND / 4);
            EchoClient::new(client.connect(server.uri()).await?).echo(value(1)).await
        };
        let error = within(3 * SECOND, "a call without a hello", call).await.unwrap_err();
        assert!(error.is_timeout() || error.is_unavailable(), "{error:?}");
        assert!(error.is_safe_to_retry(), "nothing was sent: {error:?}");
    }
}

/// The fingerprint is ours, the types are not: what the client gets is an error, or what the
/// provider's bytes say, and the next call is not harmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_answers_with_other_types_than_it_told_harms_one_call_only() {
    let greeting = hello(vec![vec![told()]], (0, 0));
    let server = RawServer::start_rude(move |mut peer: RawPeer| {
        let greeting = greeting.clone();
        async move {
            peer.try_send(&greeting).await;
            while let Some(request) = peer.requested().await {
                let (asked,): (Value,) = rmp_serde::from_slice(&request.body).unwrap();
                let id = request.header.id;
                let answer = match asked.a {
                    0 => ok(id, &("a text", 1)),
                    1 => ok(id, &(1_u8,)),
                    2 => ok(id, &5_u8),
                    3 => response(id, &[0xdd, 0xff, 0xff, 0xff, 0xff], true),
                    4 => response(id, &[0xdf, 0xff, 0xff, 0xff, 0xff], true),
                    5 => response(id, &[0x92, 1, 0xdb, 0xff, 0xff, 0xff, 0xff], true),
                    6 => response(id, &[], true),
                    7 => response(id, &[0x91; 300], true),
                    8 => ok(id, &(-1, "b")),
                    _ => ok(id, &value(asked.a)),
                };
                peer.try_send(&answer).await;
            }
        }
    })
    .await;
    let echo = EchoClient::connect(server.uri()).await.unwrap().with_timeout(5 * SECOND);
    for n in 0..9 {
        let got = soon("an answer", echo.echo(value(n))).await;
        assert!(got.as_ref().is_err_and(|error| error.is_decode()), "{n}: {got:?}");
        assert_eq!(echo.echo(value(50 + n)).await.unwrap(), value(50 + n));
    }
}
