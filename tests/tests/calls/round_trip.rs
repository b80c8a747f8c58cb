//! Calls from stub to dispatcher and back, over real sockets and in memory.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use rpc_runtime::{Context, RpcError, Server, rpc_service};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum BankError {
    #[error("account {0} has only {1}")]
    Insufficient(u32, i64),
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

#[rpc_service(version = "1.2.0")]
pub trait Bank {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, BankError>;
    #[rpc(idempotent, timeout = "200ms")]
    async fn slow(&self, milliseconds: u64) -> Result<u64, BankError>;
    async fn echo(&self, bytes: Vec<u8>) -> rpc_runtime::Result<Vec<u8>>;
    async fn panics(&self) -> rpc_runtime::Result<()>;
    async fn who(&self) -> rpc_runtime::Result<Option<String>>;
    #[rpc(oneway)]
    async fn note(&self, text: String) -> rpc_runtime::Result<()>;
}

struct Ledger;

impl Bank for Ledger {
    async fn add(&self, account: u32, amount: i64) -> Result<i64, BankError> {
        if amount < 0 {
            return Err(BankError::Insufficient(account, amount));
        }
        Ok(i64::from(account) + amount)
    }
    async fn slow(&self, milliseconds: u64) -> Result<u64, BankError> {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Ok(milliseconds)
    }
    async fn echo(&self, bytes: Vec<u8>) -> rpc_runtime::Result<Vec<u8>> {
        Ok(bytes)
    }
    async fn panics(&self) -> rpc_runtime::Result<()> {
        panic!("on purpose")
    }
    async fn who(&self) -> rpc_runtime::Result<Option<String>> {
        Ok(Context::current().metadata("tenant").map(str::to_owned))
    }
    async fn note(&self, _text: String) -> rpc_runtime::Result<()> {
        Ok(())
    }
}

async fn pair(uri: &str) -> (Server, BankClient) {
    let server = Server::builder().provide(BankServer::new(Ledger)).bind(uri).await.unwrap();
    let client = BankClient::connect(server.local_uri()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn a_value_and_the_contracts_own_error_come_back() {
    for uri in ["tcp://127.0.0.1:0", "memory:calls"] {
        let (server, bank) = pair(uri).await;
        assert_eq!(bank.add(1, 2).await, Ok(3));
        assert_eq!(bank.add(1, -2).await, Err(BankError::Insufficient(1, -2)));
        bank.note("x".into()).await.unwrap();
        let error = bank.panics().await.unwrap_err();
        assert!(error.is_internal() && error.to_string().contains("panicked"), "{error}");
        assert_eq!(
            bank.with_metadata("tenant", "acme").who().await.unwrap().as_deref(),
            Some("acme")
        );
        assert_eq!(bank.echo(vec![7; 3 << 20]).await.unwrap().len(), 3 << 20);
        let started = Instant::now();
        let Err(BankError::Rpc(error)) = bank.slow(5_000).await else { panic!() };
        assert!(error.is_timeout() && error.is_safe_to_retry(), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1));
        server.shutdown().await.unwrap();
        let error = bank.who().await.unwrap_err();
        assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_calls_each_get_their_own_answer() {
    let (server, bank) = pair("tcp://127.0.0.1:0").await;
    let calls: Vec<_> = (0..10_000_u32)
        .map(|n| {
            let bank = bank.clone();
            tokio::spawn(async move { (n, bank.add(n, 1).await) })
        })
        .collect();
    for call in calls {
        let (n, sum) = call.await.unwrap();
        assert_eq!(sum, Ok(i64::from(n) + 1));
    }
    assert_eq!(server.channels().len(), 1);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_address_that_only_this_process_can_reach_is_not_announced_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = rpc_registry::connect(format!("file://{}", folder.path().display())).await.unwrap();
    let server = Server::builder().provide(BankServer::new(Ledger)).registry(file);
    let error = server.bind("memory:lonely").await.unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("this process"), "{error}");

    let memory = rpc_registry::connect("memory:calls-announced").await.unwrap();
    let builder = Server::builder().provide(BankServer::new(Ledger)).registry(memory.clone());
    let _server = builder.bind("memory:announced").await.unwrap();
    let bank = BankClient::discover(memory).await.unwrap();
    assert_eq!(bank.add(1, 2).await, Ok(3));
}

#[tokio::test]
async fn a_handler_can_be_tested_as_a_local_object_with_a_context_of_its_own() {
    let context = Context::default().with_metadata("tenant", "acme");
    assert_eq!(context.scope(Ledger.who()).await.unwrap().as_deref(), Some("acme"));
    assert_eq!(Ledger.who().await.unwrap(), None);
}

#[tokio::test]
async fn handlers_of_an_open_connection_are_seen_added_and_removed_under_calls() {
    use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
    use rpc_runtime::protocol::{Frame, Kind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct CountRequests(Arc<AtomicUsize>);
    impl ChannelHandler for CountRequests {
        fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            if frame.header.kind == Kind::Request {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Flow::Next)
        }
    }
    struct Refuse;
    impl ChannelHandler for Refuse {
        fn write(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            Err(RpcError::new(rpc_runtime::Status::Overloaded, "not today"))
        }
    }

    let (_server, bank) = pair("memory:handlers").await;
    let channel = AsRef::<rpc_runtime::Client>::as_ref(&bank).channels().remove(0);
    let count = Arc::new(AtomicUsize::new(0));
    channel.change(Change::add_last("count", CountRequests(Arc::clone(&count)))).unwrap();
    assert_eq!(channel.handlers(), ["idle", "heartbeat", "refuse-unknown", "count"]);
    bank.who().await.unwrap();
    bank.who().await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);

    // A failing write fails that call, not the connection.
    channel.change(Change::replace("count", "refuse", Refuse)).unwrap();
    let error = bank.who().await.unwrap_err();
    assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error}");
    channel.change(Change::remove("refuse")).unwrap();
    bank.who().await.unwrap();
    assert!(
        channel.change(Change::remove("refuse")).unwrap_err().to_string().contains("heartbeat")
    );
}

#[tokio::test]
async fn a_small_payload_limit_does_not_keep_the_ends_from_greeting_each_other() {
    let builder = Server::builder().provide(BankServer::new(Ledger)).max_payload(16);
    let server = builder.bind("memory:small-limit").await.unwrap();
    let client = rpc_runtime::Client::builder().max_payload(16).connect(server.local_uri()).await;
    let bank = BankClient::new(client.unwrap());
    assert_eq!(bank.add(1, 2).await, Ok(3));
    assert!(bank.echo(vec![7; 100]).await.unwrap_err().is_too_large());
    assert_eq!(bank.add(1, 2).await, Ok(3));
}
