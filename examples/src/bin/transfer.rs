//! Transfers between accounts: typed errors, composed calls, deadlines and metadata.
//!
//! ```text
//! cargo run --bin transfer
//! ```
//!
//! Everything runs in one process, over TCP. The order of the file: contracts, code that uses them,
//! `main`, providers.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures::TryFutureExt;
use rpc_runtime::{Context, RpcError, Server, rpc_service};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// The error type of the contract. The caller gets the variant that the provider returned. Failures
/// of the call itself, which every remote method can have, are `Rpc`.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum TransferError {
    #[error("account {0} has only {1}")]
    Insufficient(u32, i64),
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// The contract of the accounts.
#[rpc_service(version = "1.2.0")]
trait AccountService {
    /// Adds `amount`, which may be negative, and returns the new balance.
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError>;
    /// Only reads, so a caller can retry safely: `idempotent`.
    #[rpc(idempotent, timeout = "200ms")]
    async fn balance(&self, account: u32) -> Result<i64, TransferError>;
    /// Has no response: `oneway`.
    #[rpc(oneway)]
    async fn audit(&self, line: String) -> rpc_runtime::Result<()>;
}

/// The contract of the credit limits. The provider of the accounts calls it.
#[rpc_service]
trait CreditService {
    /// The credit limit of the tenant in the metadata.
    #[rpc(idempotent)]
    async fn credit(&self) -> rpc_runtime::Result<i64>;
}

/// Makes two calls without blocking a thread; the second only if the first succeeds.
///
/// `accounts` can be local or remote. (A real bank would use a single call: if the second `add`
/// fails, the money is lost.)
async fn transfer(
    accounts: &impl AccountService,
    from: u32,
    to: u32,
    amount: i64,
) -> Result<i64, TransferError> {
    accounts.add(from, -amount).and_then(|_| accounts.add(to, amount)).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();

    println!("1. One function, three kinds of account service");
    let mock = Mock::default();
    transfer(&mock, 7, 8, 30).await?;
    println!("   a mock saw {:?}", mock.calls.lock().await);

    let local = Accounts::new(Credit);
    println!("   a local object: 8 has {} after the transfer", transfer(&local, 7, 8, 30).await?);

    // A registry in memory, for consumers and providers of one process.
    let registry = rpc_registry::connect("memory:transfer").await?;
    let credit_server = Server::builder()
        .provide(CreditServiceServer::new(Credit))
        .registry(Arc::clone(&registry))
        .bind("tcp://127.0.0.1:0")
        .await?;
    let credit = CreditServiceClient::discover(Arc::clone(&registry)).await?;
    // Kept to print the audit lines later. The server shares it.
    let bank = Arc::new(Accounts::new(credit));
    let server = Server::builder()
        .provide(AccountServiceServer::from_arc(Arc::clone(&bank)))
        .registry(Arc::clone(&registry))
        .bind("tcp://127.0.0.1:0")
        .await?;
    let accounts = AccountServiceClient::discover(registry).await?;
    println!(
        "   a provider at {}: 8 has {} after the transfer",
        server.local_uri(),
        transfer(&accounts, 7, 8, 30).await?
    );

    println!("2. The provider's own error comes back as it was");
    match transfer(&accounts, 7, 8, 1_000).await {
        Err(TransferError::Insufficient(account, balance)) => {
            println!("   Insufficient: account {account}, balance {balance}");
        }
        other => bail!("expected Insufficient, got {other:?}"),
    }

    println!("3. Settings of a call, on a cheap clone of the stub");
    let acme = accounts.with_timeout(ms(2_000)).with_metadata("tenant", "acme");
    println!("   acme has credit: 8 has {}", transfer(&acme, 7, 8, 1_000).await?);
    // For a single call. Overrides the 200 ms of the contract.
    println!("   and 7 has {}", accounts.with_timeout(ms(50)).balance(7).await?);

    println!("4. A deadline also applies to nested calls");
    let started = Instant::now();
    match accounts.with_timeout(ms(50)).with_metadata("tenant", "slow").add(7, -1).await {
        Err(TransferError::Rpc(error)) if error.is_timeout() => {
            println!("   after {} ms: {error}", started.elapsed().as_millis());
            println!("   safe to retry: {}", error.is_safe_to_retry());
        }
        other => bail!("expected a timeout, got {other:?}"),
    }

    println!("5. A call without a response");
    accounts.audit("the example is over".into()).await?;

    // In this order, since running calls of the first server still need the second one.
    server.shutdown().await?;
    credit_server.shutdown().await?;
    println!("   the provider has drained; its audit: {:?}", bank.audit.lock().await);
    Ok(())
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The provider of accounts. `C` is the credit service, a stub or a local object.
struct Accounts<C> {
    balances: Mutex<BTreeMap<u32, i64>>,
    audit: Mutex<Vec<String>>,
    credit: C,
}

impl<C: CreditService> Accounts<C> {
    fn new(credit: C) -> Self {
        let balances = Mutex::new(BTreeMap::from([(7, 100), (8, 0)]));
        Self { balances, audit: Mutex::default(), credit }
    }
}

impl<C: CreditService> AccountService for Accounts<C> {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError> {
        // A nested call inherits deadline and metadata.
        let credit = self.credit.credit().await?;
        // Locked after the nested call, so that no call waits for the lock during a network round
        // trip.
        let mut balances = self.balances.lock().await;
        let balance = balances.entry(account).or_default();
        // Arguments must not cause a panic: the sum may overflow.
        let sum =
            balance.checked_add(amount).ok_or_else(|| RpcError::invalid("amount too large"))?;
        if amount < 0 && sum.saturating_add(credit) < 0 {
            return Err(TransferError::Insufficient(account, *balance));
        }
        *balance = sum;
        Ok(sum)
    }

    async fn balance(&self, account: u32) -> Result<i64, TransferError> {
        Ok(self.balances.lock().await.get(&account).copied().unwrap_or_default())
    }

    async fn audit(&self, line: String) -> rpc_runtime::Result<()> {
        self.audit.lock().await.push(line);
        Ok(())
    }
}

/// The provider of credit.
struct Credit;

impl CreditService for Credit {
    async fn credit(&self) -> rpc_runtime::Result<i64> {
        // Caller, deadline and metadata. Empty if called as a local object.
        let context = Context::current();
        let tenant = context.metadata("tenant");
        if let (Some(peer), Some(tenant), Some(left)) =
            (context.peer(), tenant, context.remaining())
        {
            println!("   [credit] asked by {peer} for {tenant}, {} ms are left", left.as_millis());
        }
        match tenant {
            Some("acme") => Ok(1_000),
            Some("slow") => {
                tokio::time::sleep(ms(5_000)).await;
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}

/// A mock for tests of [`transfer`], which records the calls.
#[derive(Default)]
struct Mock {
    calls: Mutex<Vec<(u32, i64)>>,
}

impl AccountService for Mock {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError> {
        self.calls.lock().await.push((account, amount));
        Ok(amount)
    }

    async fn balance(&self, _account: u32) -> Result<i64, TransferError> {
        Ok(0)
    }

    async fn audit(&self, _line: String) -> rpc_runtime::Result<()> {
        Ok(())
    }
}
