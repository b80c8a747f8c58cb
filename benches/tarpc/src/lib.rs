//! tarpc.
//!
//! | variant | what |
//! | --- | --- |
//! | `bincode`, `messagepack` | the codec; the server spawns each request, as tarpc's examples do |
//! | `bincode-in-place`, `messagepack-in-place` | the same, all requests of a connection in one task |

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use harness::work::{self, Call, Order, check};
use harness::{Args, Connection, Result, Role, drive};
use tarpc::server::{BaseChannel, Channel};
use tarpc::{ClientMessage, Response, client, context, serde_transport};
use tokio_serde::formats::{Bincode, MessagePack};
use tokio_serde::{Deserializer, Serializer};

#[tarpc::service]
trait Echo {
    async fn order(order: Order) -> Order;
    async fn text(text: String) -> String;
    async fn blob(blob: Bytes) -> Bytes;
    async fn number(number: u64) -> u64;
    async fn wait(millis: u64);
    async fn block(millis: u64);
}

#[derive(Clone)]
struct Service;

impl Echo for Service {
    async fn order(self, _: context::Context, order: Order) -> Order {
        order
    }

    async fn text(self, _: context::Context, text: String) -> String {
        text
    }

    async fn blob(self, _: context::Context, blob: Bytes) -> Bytes {
        blob
    }

    async fn number(self, _: context::Context, number: u64) -> u64 {
        number
    }

    async fn wait(self, _: context::Context, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn block(self, _: context::Context, millis: u64) {
        let sleep = move || std::thread::sleep(Duration::from_millis(millis));
        if let Err(error) = tokio::task::spawn_blocking(sleep).await {
            eprintln!("{error}");
        }
    }
}

/// The contestant.
pub fn run(args: &Args) -> Result<()> {
    let (codec, in_place) = match args.variant.strip_suffix("-in-place") {
        Some(codec) => (codec, true),
        None => (args.variant.as_str(), false),
    };
    match codec {
        "bincode" => run_with(args, in_place, Bincode::default, Bincode::default),
        "messagepack" => run_with(args, in_place, MessagePack::default, MessagePack::default),
        other => Err(format!("unknown variant {other}").into()),
    }
}

/// The bounds that both codecs meet.
trait Codec<Item, SinkItem>:
    Serializer<SinkItem, Error = io::Error>
    + Deserializer<Item, Error = io::Error>
    + Send
    + Unpin
    + 'static
{
}

impl<Item, SinkItem, T> Codec<Item, SinkItem> for T where
    T: Serializer<SinkItem, Error = io::Error>
        + Deserializer<Item, Error = io::Error>
        + Send
        + Unpin
        + 'static
{
}

fn run_with<S, C>(args: &Args, in_place: bool, server: fn() -> S, client: fn() -> C) -> Result<()>
where
    S: Codec<ClientMessage<EchoRequest>, Response<EchoResponse>>,
    C: Codec<Response<EchoResponse>, ClientMessage<EchoRequest>>,
{
    let runtime = args.runtime()?;
    match args.role {
        Role::Server => runtime.block_on(serve(args.address, in_place, server)),
        _ => runtime.block_on(drive(args, async |address| connect(address, client).await)),
    }
}

async fn serve<S>(address: SocketAddr, in_place: bool, codec: fn() -> S) -> Result<()>
where
    S: Codec<ClientMessage<EchoRequest>, Response<EchoResponse>>,
{
    let mut incoming = serde_transport::tcp::listen(address, codec).await?;
    incoming.config_mut().max_frame_length(usize::MAX);
    harness::listening(incoming.local_addr())?;
    while let Some(transport) = incoming.next().await {
        let transport = transport?;
        transport.get_ref().set_nodelay(true)?;
        let requests = BaseChannel::with_defaults(transport).execute(Service.serve());
        if in_place {
            tokio::spawn(requests.for_each_concurrent(None, |request| request));
        } else {
            tokio::spawn(requests.for_each(async |request| drop(tokio::spawn(request))));
        }
    }
    Ok(())
}

async fn connect<C>(address: SocketAddr, codec: fn() -> C) -> Result<EchoClient>
where
    C: Codec<Response<EchoResponse>, ClientMessage<EchoRequest>>,
{
    let mut connecting = serde_transport::tcp::connect(address, codec);
    connecting.config_mut().max_frame_length(usize::MAX);
    let transport = connecting.await?;
    transport.get_ref().set_nodelay(true)?;
    Ok(EchoClient::new(client::Config::default(), transport).spawn())
}

impl Connection for EchoClient {
    async fn call(&self, call: Call) -> Result<()> {
        let context = context_of_10_seconds();
        match call {
            Call::Order(id) => check(self.order(context, work::order(id)).await?.id, id),
            Call::Text => {
                check(self.text(context, work::TEXT.into()).await?.len(), work::TEXT.len())
            }
            Call::Blob => check(self.blob(context, work::blob()).await?.len(), work::BLOB_LEN),
            Call::Number(number) => check(self.number(context, number).await?, number),
            Call::Wait(time) => Ok(self.wait(context, time.as_millis() as u64).await?),
            Call::Block(time) => Ok(self.block(context, time.as_millis() as u64).await?),
        }
    }
}

/// A context with the default timeout of this framework.
fn context_of_10_seconds() -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + Duration::from_secs(10);
    context
}
