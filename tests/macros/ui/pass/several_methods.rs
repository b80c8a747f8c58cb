//! The programs of the documentation: several methods, a typed error, every option.

use rpc_runtime::{RpcError, rpc_service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum TransferError {
    #[error("account {0} has only {1}")]
    Insufficient(u32, i64),
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

#[rpc_service(name = "bank.Account", version = "1.2.0", group = "blue")]
pub trait AccountService {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError>;
    #[rpc(idempotent, timeout = "200ms")]
    async fn balance(&self, account: u32) -> Result<i64, TransferError>;
    #[rpc(oneway)]
    async fn audit(&self, line: String) -> rpc_runtime::Result<()>;
    #[rpc(name = "close_all", idempotent, oneway, blocking)]
    async fn close(&self) -> rpc_runtime::Result<()>;
    #[rpc(inline)]
    async fn ping(&self) -> rpc_runtime::Result<()>;
    #[rpc(spawn)]
    async fn report(
        &self,
        account: u32,
        #[rpc(default)] limit: u32,
        unit: Option<String>,
    ) -> rpc_runtime::Result<Vec<(u32, i64)>>;
}

struct Accounts;

impl AccountService for Accounts {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError> {
        Err(TransferError::Insufficient(account, amount))
    }
    async fn balance(&self, _account: u32) -> Result<i64, TransferError> {
        Ok(0)
    }
    async fn audit(&self, _line: String) -> rpc_runtime::Result<()> {
        Ok(())
    }
    async fn close(&self) -> rpc_runtime::Result<()> {
        Ok(())
    }
    async fn ping(&self) -> rpc_runtime::Result<()> {
        Ok(())
    }
    async fn report(
        &self,
        account: u32,
        limit: u32,
        _unit: Option<String>,
    ) -> rpc_runtime::Result<Vec<(u32, i64)>> {
        Ok(vec![(account, i64::from(limit))])
    }
}

/// Stub and provider through one bound, in a task.
fn spawn(service: impl AccountService + Clone) {
    let call = async move { service.balance(7).await };
    is_send(&call);
    drop(call);
}

fn is_send(_: &(impl Send + 'static)) {}

fn is_service(_: &impl rpc_runtime::Service) {}

async fn connect() -> rpc_runtime::Result<()> {
    let accounts = AccountServiceClient::connect("tcp://127.0.0.1:9000").await?;
    spawn(
        accounts.with_timeout(std::time::Duration::from_millis(50)).with_metadata("tenant", "acme"),
    );
    let address = String::from("tcp://127.0.0.1:9000");
    AccountServiceClient::connect(&address).await?;
    AccountServiceClient::connect(address).await.map(drop)
}

fn main() {
    let server = AccountServiceServer::new(Accounts);
    is_service(&server);
    is_service(&AccountServiceServer::from_arc(std::sync::Arc::new(Accounts)).clone());
    is_send(&connect());
    let _ = format!("{server:?}");
}
