//! The programs that the API was designed by, as a user writes them.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::{StreamExt, TryFutureExt};
use rpc_runtime::{RpcError, Server, Streaming, rpc_service};
use serde::{Deserialize, Serialize};

#[rpc_service]
pub trait HelloService {
    /// Greets `name`.
    async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
}

struct Hello;
impl HelloService for Hello {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
        Ok(format!("Hello, {name}"))
    }
}

#[tokio::test]
async fn provider_and_consumer_find_each_other_by_name_and_by_uri() {
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", folder.path().display());

    // provider
    let registry = rpc_registry::connect(&uri).await.unwrap();
    let server = Server::builder()
        .provide(HelloServiceServer::new(Hello))
        .registry(registry)
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let local_uri = server.local_uri().to_owned();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve_until(stopped));

    // consumer
    let registry = rpc_registry::connect(&uri).await.unwrap();
    let hello = HelloServiceClient::discover(registry.clone()).await.unwrap(); // by name
    assert_eq!(hello.hello("world".into()).await.unwrap(), "Hello, world");
    let hello = HelloServiceClient::connect(&local_uri).await.unwrap(); // by URI
    assert_eq!(hello.hello("world".into()).await.unwrap(), "Hello, world");

    // then: drain, deregister, close
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(registry.lookup("HelloService").await.unwrap().is_empty());
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    account: u32,
    amount: i64,
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum TransferError {
    #[error("account {0} has only {1}")]
    Insufficient(u32, i64),
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

#[rpc_service(version = "1.2.0")]
pub trait AccountService {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError>;
    #[rpc(idempotent, timeout = "200ms")]
    async fn balance(&self, account: u32) -> Result<i64, TransferError>;
    #[rpc(oneway)]
    async fn audit(&self, line: String) -> rpc_runtime::Result<()>;
    async fn watch(&self, account: u32) -> Result<Streaming<i64>, TransferError>; // server stream
    async fn import(&self, rows: Streaming<Row>) -> Result<u64, TransferError>; // client stream
}

#[derive(Default)]
struct Accounts {
    balances: Mutex<HashMap<u32, i64>>,
    lines: Mutex<Vec<String>>,
}

impl AccountService for Accounts {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError> {
        let mut balances = self.balances.lock().unwrap();
        let balance = balances.entry(account).or_default();
        if *balance + amount < 0 {
            return Err(TransferError::Insufficient(account, *balance));
        }
        *balance += amount;
        Ok(*balance)
    }
    async fn balance(&self, account: u32) -> Result<i64, TransferError> {
        let ctx = rpc_runtime::Context::current(); // deadline, metadata, peer
        assert_eq!(ctx.metadata("tenant"), Some("acme"));
        assert!(ctx.remaining().unwrap() <= Duration::from_millis(50));
        Ok(self.balances.lock().unwrap().get(&account).copied().unwrap_or_default())
    }
    async fn audit(&self, line: String) -> rpc_runtime::Result<()> {
        self.lines.lock().unwrap().push(line);
        Ok(())
    }
    async fn watch(&self, account: u32) -> Result<Streaming<i64>, TransferError> {
        let balance = self.balances.lock().unwrap().get(&account).copied().unwrap_or_default();
        Ok(Streaming::from_items([balance, balance + 1]))
    }
    async fn import(&self, mut rows: Streaming<Row>) -> Result<u64, TransferError> {
        let mut count = 0;
        while let Some(row) = rows.next().await {
            let row = row?;
            self.add(row.account, row.amount).await?;
            count += 1;
        }
        Ok(count)
    }
}

/// The same code runs on a local object and on a remote stub.
async fn transfer(
    accounts: &impl AccountService,
    from: u32,
    to: u32,
    amount: i64,
) -> Result<i64, TransferError> {
    accounts.add(from, -amount).and_then(|_| accounts.add(to, amount)).await
}

#[tokio::test]
async fn the_account_service_does_all_that_its_contract_says() {
    let accounts = std::sync::Arc::new(Accounts::default());
    let server = Server::builder()
        .provide(AccountServiceServer::from_arc(accounts.clone()))
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let stub = AccountServiceClient::connect(server.local_uri()).await.unwrap();

    let rows = (1..=3).map(|account| Row { account, amount: 100 });
    assert_eq!(stub.import(Streaming::from_items(rows.collect::<Vec<_>>())).await.unwrap(), 3);
    assert_eq!(transfer(&stub, 1, 2, 30).await.unwrap(), 130);
    assert_eq!(transfer(&*accounts, 1, 2, 30).await.unwrap(), 160);
    let error = transfer(&stub, 1, 2, 300).await.unwrap_err();
    assert!(matches!(error, TransferError::Insufficient(1, 40)), "{error:?}");

    let patient = stub.with_timeout(Duration::from_millis(50)).with_metadata("tenant", "acme");
    assert_eq!(patient.balance(2).await.unwrap(), 160);
    let watched: Vec<i64> = stub.watch(2).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(watched, [160, 161]);
    stub.audit("done".into()).await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(*accounts.lines.lock().unwrap(), ["done"]);
}
