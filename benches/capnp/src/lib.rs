//! capnp-rpc, which runs on one thread. Echoed values are copied from message to message and not
//! converted to Rust values.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use capnp::Error;
use capnp::capability::Rc as Counted;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::io::{AsyncReadExt, BufReader, BufWriter};
use harness::work::{self, Call, Order, check};
use harness::{Args, LocalConnection, Result, Role, drive_local};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::compat::TokioAsyncReadCompatExt;

#[rustfmt::skip]
#[allow(warnings, clippy::all, reason = "it is generated")]
mod echo_capnp;

use echo_capnp::{echo, order};

struct Service;

impl echo::Server for Service {
    async fn order(
        self: Counted<Self>,
        params: echo::OrderParams,
        mut results: echo::OrderResults,
    ) -> Result<(), Error> {
        results.get().set_order(params.get()?.get_order()?)
    }

    async fn text(
        self: Counted<Self>,
        params: echo::TextParams,
        mut results: echo::TextResults,
    ) -> Result<(), Error> {
        results.get().set_text(params.get()?.get_text()?);
        Ok(())
    }

    async fn blob(
        self: Counted<Self>,
        params: echo::BlobParams,
        mut results: echo::BlobResults,
    ) -> Result<(), Error> {
        results.get().set_blob(params.get()?.get_blob()?);
        Ok(())
    }

    async fn number(
        self: Counted<Self>,
        params: echo::NumberParams,
        mut results: echo::NumberResults,
    ) -> Result<(), Error> {
        results.get().set_number(params.get()?.get_number());
        Ok(())
    }

    async fn wait(
        self: Counted<Self>,
        params: echo::WaitParams,
        _: echo::WaitResults,
    ) -> Result<(), Error> {
        tokio::time::sleep(Duration::from_millis(params.get()?.get_millis())).await;
        Ok(())
    }

    async fn block(
        self: Counted<Self>,
        params: echo::BlockParams,
        _: echo::BlockResults,
    ) -> Result<(), Error> {
        let time = Duration::from_millis(params.get()?.get_millis());
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(time)).await;
        slept.map_err(|error| Error::failed(error.to_string()))
    }
}

/// The contestant.
pub fn run(args: &Args) -> Result<()> {
    let runtime = args.runtime()?;
    let local = LocalSet::new();
    match args.role {
        Role::Server => runtime.block_on(local.run_until(serve(args.address))),
        _ => runtime.block_on(local.run_until(drive_local(args, connect))),
    }
}

async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    harness::listening(listener.local_addr()?)?;
    let service: echo::Client = capnp_rpc::new_client(Service);
    loop {
        let (socket, _) = listener.accept().await?;
        let network = network(socket, Side::Server)?;
        spawn_local(RpcSystem::new(Box::new(network), Some(service.clone().client)));
    }
}

#[derive(Clone)]
struct Client(Rc<echo::Client>);

async fn connect(address: SocketAddr) -> Result<Client> {
    let network = network(TcpStream::connect(address).await?, Side::Client)?;
    let mut system = RpcSystem::new(Box::new(network), None);
    let client = system.bootstrap(Side::Server);
    spawn_local(system);
    Ok(Client(Rc::new(client)))
}

/// As in the examples of capnp-rpc.
fn network(
    socket: TcpStream,
    side: Side,
) -> Result<twoparty::VatNetwork<impl futures::io::AsyncRead + Unpin>> {
    socket.set_nodelay(true)?;
    let (reader, writer) = socket.compat().split();
    let (reader, writer) = (BufReader::new(reader), BufWriter::new(writer));
    Ok(twoparty::VatNetwork::new(reader, writer, side, Default::default()))
}

impl LocalConnection for Client {
    async fn call(&self, call: Call) -> Result<()> {
        match call {
            Call::Order(id) => {
                let mut request = self.0.order_request();
                fill(request.get().init_order(), id);
                let answer = request.send().promise.await?;
                check(answer.get()?.get_order()?.get_id(), id)
            }
            Call::Text => {
                let mut request = self.0.text_request();
                request.get().set_text(work::TEXT);
                let answer = request.send().promise.await?;
                check(answer.get()?.get_text()?.len(), work::TEXT.len())
            }
            Call::Blob => {
                let mut request = self.0.blob_request();
                request.get().set_blob(&work::blob());
                let answer = request.send().promise.await?;
                check(answer.get()?.get_blob()?.len(), work::BLOB_LEN)
            }
            Call::Number(number) => {
                let mut request = self.0.number_request();
                request.get().set_number(number);
                let answer = request.send().promise.await?;
                check(answer.get()?.get_number(), number)
            }
            Call::Wait(time) => {
                let mut request = self.0.wait_request();
                request.get().set_millis(time.as_millis() as u64);
                request.send().promise.await?;
                Ok(())
            }
            Call::Block(time) => {
                let mut request = self.0.block_request();
                request.get().set_millis(time.as_millis() as u64);
                request.send().promise.await?;
                Ok(())
            }
        }
    }
}

fn fill(mut builder: order::Builder<'_>, id: u64) {
    static ORDER: LazyLock<Order> = LazyLock::new(|| work::order(0));
    builder.set_id(id);
    builder.set_user(&ORDER.user);
    builder.set_note(&ORDER.note);
    let mut items = builder.init_items(ORDER.items.len() as u32);
    for (i, item) in (0..).zip(&ORDER.items) {
        let mut builder = items.reborrow().get(i);
        builder.set_sku(&item.sku);
        builder.set_quantity(item.quantity);
        builder.set_price(item.price);
    }
}
