//! This framework.
//!
//! | variant | what |
//! | --- | --- |
//! | `default` | a client with default settings |
//! | `named` | structs are sent as maps |
//! | `compact` | structs are sent as arrays |
//! | `unmetered` | metrics are off |
//! | `recorded` | metrics go to a recorder |
//! | `intercepted-1`, `intercepted-3` | a client with one or three interceptors that pass calls on |

mod recorder;

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use harness::work::{self, Call, Order, check};
use harness::{Args, Connection, Role};
use rpc_runtime::{
    Blob, Client, ClientBuilder, Encoding, Interceptor, Next, Reply, Result, Server, rpc_service,
};

const UNMETERED: &str = "unmetered";
const RECORDED: &str = "recorded";

/// The contract.
#[rpc_service]
pub trait Echo {
    /// W1.
    async fn order(&self, order: Order) -> Result<Order>;
    /// W2.
    async fn text(&self, text: String) -> Result<String>;
    /// W3.
    async fn blob(&self, blob: Blob) -> Result<Blob>;
    /// A call with a minimal value.
    async fn number(&self, number: u64) -> Result<u64>;
    /// Awaits for this number of milliseconds.
    async fn wait(&self, millis: u64) -> Result<()>;
    /// Blocks its thread for this number of milliseconds.
    #[rpc(blocking)]
    async fn block(&self, millis: u64) -> Result<()>;
}

/// Its provider.
pub struct Service;

impl Echo for Service {
    async fn order(&self, order: Order) -> Result<Order> {
        Ok(order)
    }

    async fn text(&self, text: String) -> Result<String> {
        Ok(text)
    }

    async fn blob(&self, blob: Blob) -> Result<Blob> {
        Ok(blob)
    }

    async fn number(&self, number: u64) -> Result<u64> {
        Ok(number)
    }

    async fn wait(&self, millis: u64) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(())
    }

    async fn block(&self, millis: u64) -> Result<()> {
        std::thread::sleep(Duration::from_millis(millis));
        Ok(())
    }
}

/// The contestant.
pub fn run(args: &Args) -> harness::Result<()> {
    if args.variant == RECORDED {
        recorder::install()?;
    }
    let runtime = args.runtime()?;
    match args.role {
        Role::Server => runtime.block_on(serve(args)),
        _ => runtime.block_on(harness::drive(args, async |address| connect(args, address).await)),
    }
}

async fn serve(args: &Args) -> harness::Result<()> {
    let server = Server::builder()
        .provide(EchoServer::new(Service))
        .metrics(args.variant != UNMETERED)
        .bind(format!("tcp://{}", args.address))
        .await?;
    harness::listening(server.local_uri().trim_start_matches("tcp://").parse()?)?;
    Ok(server.serve_until(pending::<()>()).await?)
}

async fn connect(args: &Args, address: SocketAddr) -> harness::Result<EchoClient> {
    let client = client(&args.variant)?.connect(format!("tcp://{address}")).await?;
    Ok(EchoClient::new(client))
}

fn client(variant: &str) -> harness::Result<ClientBuilder> {
    match variant {
        "default" => Ok(Client::builder()),
        "named" => Ok(Client::builder().encoding(Encoding::Named)),
        "compact" => Ok(Client::builder().encoding(Encoding::Compact)),
        UNMETERED => Ok(Client::builder().metrics(false)),
        RECORDED => Ok(Client::builder()),
        "intercepted-1" => Ok(Client::builder().interceptor(PassesOn)),
        "intercepted-3" => {
            Ok(Client::builder().interceptor(PassesOn).interceptor(PassesOn).interceptor(PassesOn))
        }
        other => Err(format!("unknown variant {other}").into()),
    }
}

/// An interceptor that does nothing.
struct PassesOn;

impl Interceptor for PassesOn {
    async fn intercept(&self, call: &mut rpc_runtime::Call<'_>, next: Next<'_>) -> Result<Reply> {
        next.run(call).await
    }
}

impl Connection for EchoClient {
    async fn call(&self, call: Call) -> harness::Result<()> {
        match call {
            Call::Order(id) => check(self.order(work::order(id)).await?.id, id),
            Call::Text => check(self.text(work::TEXT.into()).await?.len(), work::TEXT.len()),
            Call::Blob => check(self.blob(work::blob().into()).await?.len(), work::BLOB_LEN),
            Call::Number(number) => check(self.number(number).await?, number),
            Call::Wait(time) => Ok(self.wait(time.as_millis() as u64).await?),
            Call::Block(time) => Ok(self.block(time.as_millis() as u64).await?),
        }
    }
}
