//! ttrpc, with its asynchronous server and client, over TCP.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::unfold;
use harness::work::{self, Call, check};
use harness::{Args, Connection, Result, Role, drive};
use tokio::net::{TcpListener, TcpStream};
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server, TtrpcContext};
use ttrpc::context;

#[allow(unsafe_code, warnings, clippy::all, reason = "it is generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}

use generated::echo::{BlobValue, Done, Item, Millis, NumberValue, OrderValue, TextValue};
use generated::echo_ttrpc::{Echo, EchoClient, create_echo};

struct Service;

#[async_trait]
impl Echo for Service {
    async fn order(&self, _: &TtrpcContext, order: OrderValue) -> ttrpc::Result<OrderValue> {
        Ok(order)
    }

    async fn text(&self, _: &TtrpcContext, text: TextValue) -> ttrpc::Result<TextValue> {
        Ok(text)
    }

    async fn blob(&self, _: &TtrpcContext, blob: BlobValue) -> ttrpc::Result<BlobValue> {
        Ok(blob)
    }

    async fn number(&self, _: &TtrpcContext, number: NumberValue) -> ttrpc::Result<NumberValue> {
        Ok(number)
    }

    async fn wait(&self, _: &TtrpcContext, millis: Millis) -> ttrpc::Result<Done> {
        tokio::time::sleep(Duration::from_millis(millis.millis)).await;
        Ok(Done::new())
    }

    async fn block(&self, _: &TtrpcContext, millis: Millis) -> ttrpc::Result<Done> {
        let time = Duration::from_millis(millis.millis);
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(time)).await;
        slept.map_err(|error| ttrpc::Error::Others(error.to_string()))?;
        Ok(Done::new())
    }
}

/// The contestant.
pub fn run(args: &Args) -> Result<()> {
    let runtime = args.runtime()?;
    match args.role {
        Role::Server => runtime.block_on(serve(args.address)),
        _ => runtime.block_on(drive(args, connect)),
    }
}

async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    // ttrpc's own listener does not set TCP_NODELAY.
    let sockets = unfold(listener, async |listener| {
        let accepted = async {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        Some((accepted.await, listener))
    });
    let mut server = Server::new()
        .add_listener(Listener::new(sockets))
        .register_service(create_echo(Arc::new(Service)));
    server.start().await?;
    harness::listening(address)?;
    std::future::pending().await
}

async fn connect(address: SocketAddr) -> Result<EchoClient> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(EchoClient::new(Client::new(Socket::from(socket))))
}

impl Connection for EchoClient {
    async fn call(&self, call: Call) -> Result<()> {
        let context = context::with_duration(Duration::from_secs(10));
        match call {
            Call::Order(id) => check(self.order(context, &order(id)).await?.id, id),
            Call::Text => {
                let text = TextValue { text: work::TEXT.into(), ..Default::default() };
                check(self.text(context, &text).await?.text.len(), work::TEXT.len())
            }
            Call::Blob => check(self.blob(context, &BLOB).await?.blob.len(), work::BLOB_LEN),
            Call::Number(number) => {
                let value = NumberValue { number, ..Default::default() };
                check(self.number(context, &value).await?.number, number)
            }
            Call::Wait(time) => {
                self.wait(context, &millis(time)).await?;
                Ok(())
            }
            Call::Block(time) => {
                self.block(context, &millis(time)).await?;
                Ok(())
            }
        }
    }
}

/// Its calls borrow their arguments, so one blob serves all.
static BLOB: LazyLock<BlobValue> =
    LazyLock::new(|| BlobValue { blob: work::blob().to_vec(), ..Default::default() });

fn millis(time: Duration) -> Millis {
    Millis { millis: time.as_millis() as u64, ..Default::default() }
}

fn order(id: u64) -> OrderValue {
    static ORDER: LazyLock<OrderValue> = LazyLock::new(|| {
        let order = work::order(0);
        let item = |item: work::Item| Item {
            sku: item.sku,
            quantity: item.quantity,
            price: item.price,
            ..Default::default()
        };
        let items = order.items.into_iter().map(item).collect();
        OrderValue { user: order.user, items, note: order.note, ..Default::default() }
    });
    OrderValue { id, ..ORDER.clone() }
}
