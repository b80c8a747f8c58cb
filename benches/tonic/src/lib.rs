//! tonic, with the default windows and buffers of hyper. Blobs are `bytes::Bytes`.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use harness::work::{self, Call, check};
use harness::{Args, Connection, Result, Role, drive};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

#[allow(warnings, clippy::all, reason = "it is generated")]
mod echo {
    tonic::include_proto!("echo");
}

use echo::echo_client::EchoClient;
use echo::echo_server::{Echo, EchoServer};
use echo::{BlobValue, Done, Item, Millis, NumberValue, OrderValue, TextValue};

struct Service;

#[tonic::async_trait]
impl Echo for Service {
    async fn order(&self, request: Request<OrderValue>) -> Result<Response<OrderValue>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn text(&self, request: Request<TextValue>) -> Result<Response<TextValue>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn blob(&self, request: Request<BlobValue>) -> Result<Response<BlobValue>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn number(&self, request: Request<NumberValue>) -> Result<Response<NumberValue>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn wait(&self, request: Request<Millis>) -> Result<Response<Done>, Status> {
        tokio::time::sleep(Duration::from_millis(request.get_ref().millis)).await;
        Ok(Response::new(Done {}))
    }

    async fn block(&self, request: Request<Millis>) -> Result<Response<Done>, Status> {
        let time = Duration::from_millis(request.get_ref().millis);
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(time)).await;
        slept.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(Done {}))
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
    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    harness::listening(incoming.local_addr()?)?;
    let server = Server::builder().add_service(EchoServer::new(Service));
    Ok(server.serve_with_incoming(incoming).await?)
}

/// The client. Clones share the connection.
#[derive(Clone)]
struct Client(EchoClient<Channel>);

async fn connect(address: SocketAddr) -> Result<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok(Client(EchoClient::new(endpoint.connect().await?)))
}

impl Connection for Client {
    async fn call(&self, call: Call) -> Result<()> {
        let mut client = self.0.clone();
        match call {
            Call::Order(id) => check(client.order(order(id)).await?.get_ref().id, id),
            Call::Text => {
                let answer = client.text(TextValue { text: work::TEXT.into() }).await?;
                check(answer.get_ref().text.len(), work::TEXT.len())
            }
            Call::Blob => {
                let answer = client.blob(BlobValue { blob: work::blob() }).await?;
                check(answer.get_ref().blob.len(), work::BLOB_LEN)
            }
            Call::Number(number) => {
                check(client.number(NumberValue { number }).await?.get_ref().number, number)
            }
            Call::Wait(time) => {
                client.wait(Millis { millis: time.as_millis() as u64 }).await?;
                Ok(())
            }
            Call::Block(time) => {
                client.block(Millis { millis: time.as_millis() as u64 }).await?;
                Ok(())
            }
        }
    }
}

fn order(id: u64) -> OrderValue {
    static ORDER: LazyLock<OrderValue> = LazyLock::new(|| {
        let order = work::order(0);
        let item =
            |item: work::Item| Item { sku: item.sku, quantity: item.quantity, price: item.price };
        let items = order.items.into_iter().map(item).collect();
        OrderValue { id: 0, user: order.user, items, note: order.note }
    });
    OrderValue { id, ..ORDER.clone() }
}
