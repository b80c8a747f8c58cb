//! Which form requests and answers are written in, and what ends of different versions make of it.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Flags, Frame, Header, Hello, HelloService, Kind};
use rpc_runtime::{Client, Encoding, Result, Server, Streaming, rpc_service};
use rpc_tests::waiting::soon;
use rpc_tests::wire::{RawPeer, RawServer, arguments, bare, frame, ok};
use serde::{Deserialize, Serialize};

/// A contract `$service` in a module of its own, and a provider that gives back what it gets.
macro_rules! version {
    ($module:ident, $($item:item)*) => {
        #[allow(dead_code, reason = "not every version is used from both ends")]
        mod $module {
            use serde::{Deserialize, Serialize};

            $(
                #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
                $item
            )*

            #[rpc_runtime::rpc_service]
            pub trait Echo {
                async fn echo(&self, value: Value) -> rpc_runtime::Result<Value>;
            }

            pub struct Same;
            impl Echo for Same {
                async fn echo(&self, value: Value) -> rpc_runtime::Result<Value> {
                    Ok(value)
                }
            }
        }
    };
}

version! { first, pub struct Value { pub a: u32, pub b: u32 } }
version! { same, pub struct Value { pub a: u32, pub b: u32 } }
version! { added, pub struct Value { pub a: u32, pub b: u32, #[serde(default)] pub c: u32 } }
version! { put_between, pub struct Value { pub a: u32, #[serde(default)] pub c: u32, pub b: u32 } }
version! { removed, #[serde(default)] pub struct Value { pub b: u32 } }
version! { reordered, pub struct Value { pub b: u32, pub a: u32 } }
version! { retyped, pub struct Value { pub a: u64, pub b: i64 } }
version! { renamed, pub struct Value { pub a: u32, #[serde(alias = "b")] pub d: u32 } }

/// What the frames of a client's connections say: for each request and response, whether it is
/// compact.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Kind, bool)>>>);

impl Seen {
    fn note(&self, frame: &Frame<'_>) {
        let kind = frame.header.kind;
        if matches!(kind, Kind::Request | Kind::Response | Kind::Oneway) {
            let compact = frame.header.flags.contains(Flags::COMPACT);
            self.0.lock().unwrap().push((kind, compact));
        }
    }

    /// Whether the one call since the last look was compact, in both directions.
    fn compact(&self) -> (bool, bool) {
        match std::mem::take(&mut *self.0.lock().unwrap())[..] {
            [(Kind::Request, request), (Kind::Response, response)] => (request, response),
            ref other => panic!("{other:?}"),
        }
    }
}

impl ChannelHandler for Seen {
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.note(frame);
        Ok(Flow::Next)
    }

    fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.note(frame);
        Ok(Flow::Next)
    }
}

async fn connect(server: &Server) -> (Client, Seen) {
    let seen = Seen::default();
    let handler = seen.clone();
    let builder =
        Client::builder().pipeline(move || vec![Change::add_last("seen", handler.clone())]);
    (builder.connect(server.local_uri()).await.unwrap(), seen)
}

/// Calls `echo` of one version at a provider of another.
macro_rules! cross {
    ($consumer:ident { $($given:tt)* } => $provider:ident => { $($back:tt)* }, $compact:expr) => {{
        use $consumer::Echo as _;
        let uri = concat!("memory:encoding-", stringify!($consumer), "-", stringify!($provider));
        let service = $provider::EchoServer::new($provider::Same);
        let server = Server::builder().provide(service).bind(uri).await.unwrap();
        let (client, seen) = connect(&server).await;
        let echo = $consumer::EchoClient::new(client);
        // The first call compares the fingerprints, the second knows.
        for _ in 0..2 {
            let value = $consumer::Value { $($given)* };
            let back = $consumer::Value { $($back)* };
            assert_eq!(echo.echo(value).await.unwrap(), back);
            assert_eq!(seen.compact(), ($compact, $compact));
        }
    }};
}

#[tokio::test]
async fn ends_of_the_same_version_speak_compact() {
    cross!(first { a: 1, b: 2 } => first => { a: 1, b: 2 }, true);
    cross!(first { a: 1, b: 2 } => same => { a: 1, b: 2 }, true);
}

#[tokio::test]
async fn ends_of_different_versions_speak_named_and_read_each_field_by_its_name() {
    cross!(first { a: 1, b: 2 } => added => { a: 1, b: 2 }, false);
    cross!(added { a: 1, b: 2, c: 3 } => first => { a: 1, b: 2, c: 0 }, false);
    cross!(first { a: 1, b: 2 } => put_between => { a: 1, b: 2 }, false);
    cross!(put_between { a: 1, c: 3, b: 2 } => first => { a: 1, c: 0, b: 2 }, false);
    cross!(added { a: 1, b: 2, c: 3 } => put_between => { a: 1, b: 2, c: 3 }, false);
    cross!(first { a: 1, b: 2 } => reordered => { a: 1, b: 2 }, false);
    cross!(reordered { a: 1, b: 2 } => first => { a: 1, b: 2 }, false);
    cross!(first { a: 1, b: 2 } => retyped => { a: 1, b: 2 }, false);
    cross!(retyped { a: 1, b: 2 } => first => { a: 1, b: 2 }, false);
    cross!(removed { b: 2 } => removed => { b: 2 }, true);
}

#[tokio::test]
async fn what_two_versions_cannot_read_of_each_other_is_an_error_and_no_other_value() {
    use first::Echo as _;
    let service = removed::EchoServer::new(removed::Same);
    let server = Server::builder().provide(service).bind("memory:encoding-lost").await.unwrap();
    let (client, _) = connect(&server).await;
    let echo = first::EchoClient::new(client);
    let error = echo.echo(first::Value { a: 1, b: 2 }).await.unwrap_err();
    assert!(error.is_decode() && error.message().contains('a'), "{error}");
    use renamed::Echo as _;
    let service = first::EchoServer::new(first::Same);
    let server = Server::builder().provide(service).bind("memory:encoding-name").await.unwrap();
    let (client, _) = connect(&server).await;
    let echo = renamed::EchoClient::new(client);
    let error = echo.echo(renamed::Value { a: 1, d: 2 }).await.unwrap_err();
    assert!(error.is_decode() && error.message().contains('b'), "{error}");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    a: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    b: Option<u8>,
    c: u8,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    c: u8,
    #[serde(flatten)]
    rest: first::Value,
}

#[rpc_service]
trait Varied {
    async fn sparse(&self, value: Sparse) -> Result<Sparse>;
    /// Always without `b`.
    async fn sparser(&self, value: Sparse) -> Result<Sparse>;
    async fn flat(&self, value: Flat) -> Result<Flat>;
    async fn items(&self, items: Streaming<Sparse>) -> Result<Streaming<Sparse>>;
    async fn mixed(&self, value: Sparse, items: Streaming<Sparse>) -> Result<u64>;
    #[rpc(oneway)]
    async fn note(&self, value: Sparse) -> Result<()>;
}

struct Plain;
impl Varied for Plain {
    async fn sparse(&self, value: Sparse) -> Result<Sparse> {
        Ok(value)
    }
    async fn sparser(&self, value: Sparse) -> Result<Sparse> {
        Ok(Sparse { b: None, ..value })
    }
    async fn flat(&self, value: Flat) -> Result<Flat> {
        Ok(value)
    }
    async fn items(&self, items: Streaming<Sparse>) -> Result<Streaming<Sparse>> {
        Ok(items)
    }
    async fn mixed(&self, value: Sparse, mut items: Streaming<Sparse>) -> Result<u64> {
        let mut sum = u64::from(value.c);
        while let Some(item) = items.next().await {
            sum += u64::from(item?.c);
        }
        Ok(sum)
    }
    async fn note(&self, _: Sparse) -> Result<()> {
        Ok(())
    }
}

async fn varied(name: &str) -> (Server, VariedClient, Seen) {
    let builder = Server::builder().provide(VariedServer::new(Plain));
    let server = builder.bind(format!("memory:encoding-varied-{name}")).await.unwrap();
    let (client, seen) = connect(&server).await;
    (server, VariedClient::new(client), seen)
}

fn sparse(a: Option<u8>, b: Option<u8>) -> Sparse {
    Sparse { a, b, c: 7 }
}

#[tokio::test]
async fn values_that_leave_out_fields_are_named_in_either_direction_and_read_back() {
    let (_server, varied, seen) = varied("skip").await;
    for forced in [Encoding::ByContract, Encoding::Compact] {
        let varied = varied.with_encoding(forced);
        for (value, compact) in [
            (sparse(Some(1), Some(2)), true),
            (sparse(None, Some(2)), false),
            (sparse(Some(1), None), false),
            (sparse(None, None), false),
        ] {
            assert_eq!(varied.sparse(value.clone()).await.unwrap(), value);
            assert_eq!(seen.compact(), (compact, compact), "{value:?}");
        }
        let answer = varied.sparser(sparse(Some(1), Some(2))).await.unwrap();
        assert_eq!(answer, sparse(Some(1), None));
        assert_eq!(seen.compact(), (true, false), "the flag tells what was written");
    }
}

#[tokio::test]
async fn a_type_without_a_shape_is_named_unless_compact_is_asked_for() {
    let (_server, varied, seen) = varied("flat").await;
    let value = || Flat { c: 1, rest: first::Value { a: 2, b: 3 } };
    assert_eq!(varied.flat(value()).await.unwrap(), value());
    assert_eq!(seen.compact(), (false, false));
    assert_eq!(varied.with_encoding(Encoding::Compact).flat(value()).await.unwrap(), value());
    assert_eq!(seen.compact(), (true, true));
}

#[tokio::test]
async fn items_of_a_stream_and_their_call_read_back_in_each_encoding() {
    let (_server, varied, seen) = varied("items").await;
    let items = [sparse(Some(1), Some(2)), sparse(None, Some(2)), sparse(Some(1), None)];
    for (encoding, compact) in
        [(Encoding::ByContract, true), (Encoding::Named, false), (Encoding::Compact, true)]
    {
        let varied = varied.with_encoding(encoding);
        let mut back = varied.items(Streaming::from_items(items.clone())).await.unwrap();
        for item in &items {
            assert_eq!(back.next().await.unwrap().unwrap(), *item);
        }
        assert!(back.next().await.is_none());
        assert_eq!(seen.compact(), (compact, compact));
        // Encoded compact first, then again: the stream is still there.
        let sum = varied.mixed(sparse(None, Some(1)), Streaming::from_items(items.clone()));
        assert_eq!(soon("the sum", sum).await.unwrap(), 28);
        assert!(!seen.compact().0);
    }
}

#[tokio::test]
async fn a_client_and_a_single_call_may_choose_for_themselves() {
    let (server, varied, seen) = varied("choice").await;
    let value = sparse(Some(1), Some(2));
    varied.with_encoding(Encoding::Named).sparse(value.clone()).await.unwrap();
    assert_eq!(seen.compact(), (false, false));
    let builder = Client::builder().encoding(Encoding::Named);
    let handler = seen.clone();
    let builder = builder.pipeline(move || vec![Change::add_last("seen", handler.clone())]);
    let named = VariedClient::new(builder.connect(server.local_uri()).await.unwrap());
    named.sparse(value.clone()).await.unwrap();
    assert_eq!(seen.compact(), (false, false));
    named.with_encoding(Encoding::ByContract).sparse(value.clone()).await.unwrap();
    assert_eq!(seen.compact(), (true, true));
    varied.note(value).await.unwrap();
    assert_eq!(seen.0.lock().unwrap()[..], [(Kind::Oneway, true)]);
}

/// The provider's side, by hand.
fn greeting(methods: Vec<(u64, u64)>, max_requests: u32) -> Vec<u8> {
    let mut service = HelloService::default();
    service.name = "Echo".to_owned();
    service.methods = methods;
    let mut hello = Hello::default();
    hello.max_requests = max_requests;
    hello.services.push(service);
    frame(Header::new(Kind::Hello), &arguments(&hello))
}

/// The first request of a call that is made to a provider with this greeting.
async fn first_request(greeting: Vec<u8>) -> (bool, Vec<u8>) {
    use first::Echo as _;
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let server = RawServer::start_rude(move |mut peer: RawPeer| {
        let (greeting, sender) = (greeting.clone(), sender.clone());
        async move {
            peer.send(&greeting).await;
            let Some(request) = peer.requested().await else { return };
            let id = request.header.id;
            sender.send(request).unwrap();
            peer.send(&ok(id, &first::Value { a: 1, b: 2 })).await;
            peer.drain().await;
        }
    })
    .await;
    let echo = first::EchoClient::connect(server.uri()).await.unwrap();
    // Named, although the request may be compact: readers take both.
    assert_eq!(echo.echo(Default::default()).await.unwrap(), first::Value { a: 1, b: 2 });
    let request = requests.recv().await.unwrap();
    (request.header.flags.contains(Flags::COMPACT), request.body)
}

#[tokio::test]
async fn a_provider_that_does_not_tell_is_spoken_to_in_maps() {
    let id = first::ECHO_DESCRIPTOR.methods()[0].id();
    let server = first::EchoServer::new(first::Same);
    let told = rpc_runtime::Service::fingerprints(&server);
    assert!(matches!(told[..], [(of, fingerprint)] if of == id && fingerprint != 0), "{told:?}");
    let (_, fingerprint) = told[0];
    for (methods, compact) in [
        (vec![], false),
        (vec![(id, 0)], false),
        (vec![(id, fingerprint ^ 1)], false),
        (vec![(id ^ 1, fingerprint)], false),
        (vec![(id ^ 1, 1), (id, fingerprint)], true),
    ] {
        let (flag, body) = first_request(greeting(methods, 0)).await;
        assert_eq!(flag, compact);
        let written =
            if compact { vec![0x91, 0x92, 0, 0] } else { arguments(&(first::Value::default(),)) };
        assert_eq!(body, written);
    }
}

/// The second call waits behind the first one when the provider says that it is about to close, so
/// it moves to another connection, whose provider tells nothing.
#[tokio::test]
async fn a_call_that_moves_to_another_connection_is_written_for_that_one() {
    let connections = Arc::new(AtomicUsize::new(0));
    let (sender, mut moved) = tokio::sync::mpsc::unbounded_channel();
    let server = RawServer::start_rude(move |mut peer: RawPeer| {
        let first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        let sender = sender.clone();
        async move {
            let told = rpc_runtime::Service::fingerprints(&VariedServer::new(Plain));
            peer.send(&greeting(if first { told } else { vec![] }, 1)).await;
            let Some(request) = peer.requested().await else { return };
            let id = request.header.id;
            if first {
                assert!(request.header.flags.contains(Flags::COMPACT));
                peer.send(&bare(Kind::GoAway, 0)).await;
                peer.send(&ok(id, &sparse(None, None))).await;
            } else {
                let item = peer.next().await.unwrap();
                peer.send(&ok(id, &28)).await;
                sender.send((request, item)).unwrap();
            }
            peer.drain().await;
        }
    })
    .await;
    let varied = VariedClient::connect(server.uri()).await.unwrap();
    let whole = sparse(Some(1), Some(2));
    let (held_up, sum) = soon("both answers", async {
        tokio::join!(
            varied.sparse(whole.clone()),
            varied.mixed(whole.clone(), Streaming::from_items([whole.clone()])),
        )
    })
    .await;
    assert_eq!((held_up.unwrap(), sum.unwrap()), (sparse(None, None), 28));
    let (request, item) = moved.recv().await.unwrap();
    assert!(request.header.flags.contains(Flags::STREAM), "its stream moves with it");
    assert!(!request.header.flags.contains(Flags::COMPACT));
    assert_eq!(request.body, arguments(&(&whole, ())));
    assert_eq!((item.header.kind, item.body), (Kind::StreamData, arguments(&whole)));
}
