//! Moving money between accounts: typed errors, composed calls, deadlines and metadata.
//!
//! ```text
//! cargo run --bin transfer
//! ```
//!
//! All runs in one process, over TCP. Read it from the top: the contracts, code written against
//! them, what `main` shows, and below it the providers.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures::TryFutureExt;
use rpc_runtime::{Context, RpcError, Server, rpc_service};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// What can go wrong with accounts. The caller gets exactly the variant that the provider returned;
/// failures on the way, which every remote method can have, arrive as `Rpc`.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum TransferError {
    #[error("account {0} has only {1}")]
    Insufficient(u32, i64),
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// The bank's counter.
#[rpc_service(version = "1.2.0")]
trait AccountService {
    /// Adds `amount`, which may be negative, and answers with the new balance.
    async fn add(&self, account: u32, amount: i64) -> Result<i64, TransferError>;
    /// Only reads, so a caller may safely try again: `idempotent`.
    #[rpc(idempotent, timeout = "200ms")]
    async fn balance(&self, account: u32) -> Result<i64, TransferError>;
    /// Nobody waits for an answer: `oneway`.
    #[rpc(oneway)]
    async fn audit(&self, line: String) -> rpc_runtime::Result<()>;
}

/// How far an account may go below zero. The bank asks a provider of its own for that.
#[rpc_service]
trait CreditService {
    /// The credit of the tenant on whose behalf the call is made.
    #[rpc(idempotent)]
    async fn credit(&self) -> rpc_runtime::Result<i64>;
}

/// Two calls composed without blocking a thread; the second is made if the first went well.
///
/// It doesn't know whether `accounts` is here or elsewhere. (A real bank would do both in one call:
/// if the second `add` fails, the money has left `from` and is nowhere.)
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

    // Consumers and providers of one process may meet in a registry in memory.
    let registry = rpc_registry::connect("memory:transfer").await?;
    let credit_server = Server::builder()
        .provide(CreditServiceServer::new(Credit))
        .registry(Arc::clone(&registry))
        .bind("tcp://127.0.0.1:0")
        .await?;
    let credit = CreditServiceClient::discover(Arc::clone(&registry)).await?;
    // Kept, to look at the audit lines later; a server needs no more than a share of it.
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
    // Or for one call only. It goes before the 200 ms of the contract.
    println!("   and 7 has {}", accounts.with_timeout(ms(50)).balance(7).await?);

    println!("4. A deadline holds for all that is done on behalf of the call");
    let started = Instant::now();
    match accounts.with_timeout(ms(50)).with_metadata("tenant", "slow").add(7, -1).await {
        Err(TransferError::Rpc(error)) if error.is_timeout() => {
            println!("   after {} ms: {error}", started.elapsed().as_millis());
            println!("   safe to retry: {}", error.is_safe_to_retry());
        }
        other => bail!("expected a timeout, got {other:?}"),
    }

    println!("5. A call without an answer");
    accounts.audit("the example is over".into()).await?;

    // In this order, so that what the first has in work still finds the second.
    server.shutdown().await?;
    credit_server.shutdown().await?;
    println!("   the provider has drained; its audit: {:?}", bank.audit.lock().await);
    Ok(())
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The provider of accounts. `C` is where credit comes from: a stub, or an object in this process.
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
        // Nothing about tenant or deadline is passed on here: a nested call inherits both.
        let credit = self.credit.credit().await?;
        // Locked only now, so that nobody waits for a lock while someone else waits for a network.
        let mut balances = self.balances.lock().await;
        let balance = balances.entry(account).or_default();
        // What a caller sends must not make the provider panic: the sum may be too large.
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
        // Who calls, how long is left, what travels along. Empty when called as a local object.
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

/// What a test of [`transfer`] would use: no network, no accounts, only a memory of the calls.
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
