//! volo-thrift.
//!
//! | variant | what |
//! | --- | --- |
//! | `pooled` | the default: each call has its own connection, so 64 callers have 64 |
//! | `multiplexed` | all callers share a connection |

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use harness::work::{self, Call, check};
use harness::{Args, Connection, Result, Role, drive};
use pilota::{Bytes, FastStr};
use tokio::net::TcpListener;
use volo::net::incoming::DefaultIncoming;
use volo_thrift::ServerError;

#[allow(unsafe_code, warnings, clippy::all, reason = "it is generated")]
mod generated {
    volo::include_service!("volo_gen.rs");
}

use generated::volo_gen::echo::{Echo, EchoClient, EchoClientBuilder, EchoServer, Item, Order};

struct Service;

impl Echo for Service {
    async fn order(&self, order: Order) -> Result<Order, ServerError> {
        Ok(order)
    }

    async fn text(&self, text: FastStr) -> Result<FastStr, ServerError> {
        Ok(text)
    }

    async fn blob(&self, blob: Bytes) -> Result<Bytes, ServerError> {
        Ok(blob)
    }

    async fn number(&self, number: i64) -> Result<i64, ServerError> {
        Ok(number)
    }

    async fn wait(&self, millis: i64) -> Result<(), ServerError> {
        tokio::time::sleep(Duration::from_millis(millis.unsigned_abs())).await;
        Ok(())
    }

    async fn block(&self, millis: i64) -> Result<(), ServerError> {
        let time = Duration::from_millis(millis.unsigned_abs());
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(time)).await;
        slept.map_err(|error| ServerError::from(anyhow::Error::from(error)))
    }
}

/// The contestant.
pub fn run(args: &Args) -> Result<()> {
    let multiplexed = match args.variant.as_str() {
        "pooled" => false,
        "multiplexed" => true,
        other => return Err(format!("unknown variant {other}").into()),
    };
    let runtime = args.runtime()?;
    match args.role {
        Role::Server => runtime.block_on(serve(args.address, multiplexed)),
        _ => runtime.block_on(drive(args, async |address| Ok(connect(address, multiplexed)))),
    }
}

async fn serve(address: SocketAddr, multiplexed: bool) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    harness::listening(listener.local_addr()?)?;
    let server = EchoServer::new(Service).multiplex(multiplexed);
    server.run(DefaultIncoming::from(listener)).await
}

/// A client, which connects with its first call.
fn connect(address: SocketAddr, multiplexed: bool) -> EchoClient {
    EchoClientBuilder::new("echo").address(address).multiplex(multiplexed).build()
}

impl Connection for EchoClient {
    async fn call(&self, call: Call) -> Result<()> {
        match call {
            Call::Order(id) => check(self.order(order(id as i64)).await?.id, id as i64),
            Call::Text => {
                let text = self.text(FastStr::from_static_str(work::TEXT)).await?;
                check(text.len(), work::TEXT.len())
            }
            Call::Blob => check(self.blob(work::blob()).await?.len(), work::BLOB_LEN),
            Call::Number(number) => check(self.number(number as i64).await?, number as i64),
            Call::Wait(time) => Ok(self.wait(time.as_millis() as i64).await?),
            Call::Block(time) => Ok(self.block(time.as_millis() as i64).await?),
        }
    }
}

fn order(id: i64) -> Order {
    static ORDER: LazyLock<Order> = LazyLock::new(|| {
        let order = work::order(0);
        let item = |item: work::Item| Item {
            sku: item.sku.into(),
            quantity: item.quantity as i32,
            price: item.price,
        };
        Order {
            id: 0,
            user: order.user.into(),
            items: order.items.into_iter().map(item).collect(),
            note: order.note.into(),
        }
    });
    Order { id, ..ORDER.clone() }
}
