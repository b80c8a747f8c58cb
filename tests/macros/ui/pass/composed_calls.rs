//! Calls are futures like any other.

use futures::TryFutureExt;
use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Accounts {
    async fn add(&self, account: u32, amount: i64) -> Result<i64>;
}

async fn transfer(accounts: &impl Accounts, from: u32, to: u32, amount: i64) -> Result<i64> {
    accounts.add(from, -amount).and_then(|_| accounts.add(to, amount)).await
}

fn is_send<T: Send>(future: T) -> T {
    future
}

fn concurrently(accounts: &AccountsClient) -> impl Future<Output = Result<(i64, i64)>> + Send {
    is_send(
        async move { futures::try_join!(accounts.add(1, 1), is_send(transfer(accounts, 1, 2, 3))) },
    )
}

fn main() {
    let _ = concurrently;
}
