//! Interceptors at both ends: authentication, roles, a request id, an access log, and one trace over
//! three processes.
//!
//! ```text
//! cargo run --bin interceptors
//! ```
//!
//! The program starts itself three times: `gateway` calls `orders`, which calls `stock`. The
//! interceptors are in `auth.rs` and `requests.rs`, the export of spans in `traces.rs`.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

mod auth;
mod requests;
mod traces;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rpc_examples::process::{Process, end_of_input};
use rpc_registry::Registry;
use rpc_runtime::{Context, Result, RpcError, Server, rpc_service};
use tokio::sync::Mutex;
use tracing::{Instrument, info_span};

use self::auth::{Bearer, RequireBearer, RequireRole, User};
use self::requests::{AccessLog, RequestId};

/// Provided by `orders`.
#[rpc_service]
trait OrderService {
    /// Orders `count` pieces of `item`, and returns a line about the order.
    async fn place(&self, item: String, count: u32) -> Result<String>;
}

/// Provided by `orders`, too, but only for administrators.
#[rpc_service]
trait AdminService {
    async fn close_shop(&self) -> Result<()>;
}

/// Provided by `stock`.
#[rpc_service]
trait StockService {
    /// Takes `count` pieces of `item`, and returns how many are left.
    async fn take(&self, item: String, count: u32) -> Result<u32>;
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (role, uri) = match args[..] {
        [] => {
            return tokio::select! {
                // Polled first, so that Ctrl-C is handled before there is anything to clean up.
                biased;
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                shown = show() => shown,
            };
        }
        [role, uri] => (role, uri),
        _ => bail!("usage: interceptors"),
    };
    let exported = traces::init();
    let registry = rpc_examples::registry(uri).await?;
    match role {
        "gateway" => gateway(registry).await?,
        "orders" => orders(registry).await?,
        "stock" => stock(registry).await?,
        _ => bail!("unknown role {role:?}"),
    }
    exported.shutdown()?;
    Ok(())
}

async fn show() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("rpc-interceptors-").tempdir();
    let folder = folder.context("cannot make a folder for the registry")?;
    let registry = rpc_registry::file_uri(folder.path())?;

    println!("1. Two providers start: `orders` calls `stock`.");
    let mut stock = Process::start("stock", &["stock", &registry])?;
    stock.show_until("serving").await?;
    let mut orders = Process::start("orders", &["orders", &registry])?;
    orders.show_until("serving").await?;

    println!(
        "2. `gateway` calls `orders`: as ada, without a token, and as ada in place of an admin."
    );
    let mut gateway = Process::start("gateway", &["gateway", &registry])?;
    gateway.finish().await?;

    println!("3. The access log and the spans of `orders`. The call of ada has the same trace.");
    orders.finish().await?;

    println!("4. Those of `stock`. Only the call of ada came here: same request id, same trace.");
    stock.finish().await?;
    Ok(())
}

/// The program that begins the calls.
async fn gateway(registry: Arc<dyn Registry>) -> anyhow::Result<()> {
    // Shared by all stubs of this process.
    let request_id = Arc::new(RequestId::default());
    let stranger = OrderServiceClient::discover(Arc::clone(&registry))
        .await?
        .with_interceptor(request_id.clone());
    let ada = stranger.with_interceptor(Bearer("s3cret"));

    let placed = ada.place("tea".into(), 2).instrument(info_span!("checkout")).await?;
    println!("placed: {placed}");

    let Err(error) = stranger.place("tea".into(), 2).await else { bail!("a stranger was served") };
    ensure!(error.is_unauthenticated(), "expected unauthenticated, got {error}");
    println!("unauthenticated, safe to retry: {}: {error}", error.is_safe_to_retry());

    let admin = AdminServiceClient::discover(registry)
        .await?
        .with_interceptor(request_id)
        .with_interceptor(Bearer("s3cret"));
    let Err(error) = admin.close_shop().await else { bail!("ada has closed the shop") };
    ensure!(error.is_permission_denied(), "expected permission denied, got {error}");
    println!("permission denied: {error}");
    Ok(())
}

async fn orders(registry: Arc<dyn Registry>) -> anyhow::Result<()> {
    // Calls of `Orders` inherit the metadata of the call that they are made for: token, request id
    // and trace context. So this client needs no `Bearer`, and makes no id of its own for them.
    let stock = StockServiceClient::discover(Arc::clone(&registry))
        .await?
        .with_interceptor(RequestId::default());
    let server = Server::builder()
        .provide_with(OrderServiceServer::new(Orders { stock }), [RequireRole("clerk")])
        .provide_with(AdminServiceServer::new(Admin), [RequireRole("admin")]) // for one service only
        // The first is the outermost, so the log has also the calls that the second refuses.
        .interceptor(AccessLog)
        .interceptor(RequireBearer("s3cret"))
        .registry(registry)
        .bind("tcp://127.0.0.1:0")
        .await?;
    println!("serving at {}", server.local_uri());
    Ok(server.serve_until(end_of_input()).await?)
}

async fn stock(registry: Arc<dyn Registry>) -> anyhow::Result<()> {
    let server = Server::builder()
        .provide(StockServiceServer::new(Stock::default()))
        .interceptor(AccessLog)
        .interceptor(RequireBearer("s3cret"))
        .registry(registry)
        .bind("tcp://127.0.0.1:0")
        .await?;
    println!("serving at {}", server.local_uri());
    Ok(server.serve_until(end_of_input()).await?)
}

struct Orders {
    stock: StockServiceClient,
}

impl OrderService for Orders {
    async fn place(&self, item: String, count: u32) -> Result<String> {
        // Attached by `RequireBearer`.
        let user = Context::current().extension::<User>();
        let user = user.ok_or_else(|| RpcError::unauthenticated("who orders?"))?;
        let left = self.stock.take(item.clone(), count).await?;
        Ok(format!("{count} {item} for {}, {left} left", user.0))
    }
}

struct Admin;

impl AdminService for Admin {
    async fn close_shop(&self) -> Result<()> {
        println!("closed");
        Ok(())
    }
}

struct Stock(Mutex<BTreeMap<String, u32>>);

impl Default for Stock {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::from([("tea".to_owned(), 100)])))
    }
}

impl StockService for Stock {
    async fn take(&self, item: String, count: u32) -> Result<u32> {
        let mut pieces = self.0.lock().await;
        let left = pieces.get(&item).and_then(|pieces| pieces.checked_sub(count));
        let left = left.ok_or_else(|| RpcError::invalid(format!("not enough {item}")))?;
        pieces.insert(item, left);
        Ok(left)
    }
}
