//! Where methods run, and which service gets a call.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rpc_runtime::{Client, Dispatch, Encoding, Result, Server, rpc_service};
use serde::{Deserialize, Serialize};

mod v1 {
    #[rpc_runtime::rpc_service(version = "1.4.0")]
    pub trait Greeter {
        async fn greet(&self) -> rpc_runtime::Result<String>;
    }
}
mod v2 {
    #[rpc_runtime::rpc_service(version = "2.0.0")]
    pub trait Greeter {
        async fn greet(&self) -> rpc_runtime::Result<String>;
    }
}
mod blue {
    #[rpc_runtime::rpc_service(version = "1.0.0", group = "blue")]
    pub trait Greeter {
        async fn greet(&self) -> rpc_runtime::Result<String>;
    }
}

use blue::Greeter as _;
use v1::Greeter as _;
use v2::Greeter as _;

struct Says(&'static str);
impl v1::Greeter for Says {
    async fn greet(&self) -> Result<String> {
        Ok(self.0.to_owned())
    }
}
impl v2::Greeter for Says {
    async fn greet(&self) -> Result<String> {
        Ok(self.0.to_owned())
    }
}
impl blue::Greeter for Says {
    async fn greet(&self) -> Result<String> {
        Ok(self.0.to_owned())
    }
}

#[tokio::test]
async fn versions_and_groups_of_a_service_share_a_listener_and_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let registry =
        rpc_registry::connect(rpc_registry::file_uri(folder.path()).unwrap()).await.unwrap();
    let _server = Server::builder()
        .provide(v1::GreeterServer::new(Says("one")))
        .provide(v2::GreeterServer::new(Says("two")))
        .provide(blue::GreeterServer::new(Says("blue")))
        .provide(WorkServer::new(Worker::default()))
        .registry(registry.clone())
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    assert_eq!(
        v1::GreeterClient::discover(registry.clone()).await.unwrap().greet().await.unwrap(),
        "one"
    );
    assert_eq!(
        v2::GreeterClient::discover(registry.clone()).await.unwrap().greet().await.unwrap(),
        "two"
    );
    assert_eq!(
        blue::GreeterClient::discover(registry.clone()).await.unwrap().greet().await.unwrap(),
        "blue"
    );
    assert_eq!(WorkClient::discover(registry).await.unwrap().quick().await.unwrap(), 1);
}

#[rpc_service]
pub trait Work {
    async fn quick(&self) -> Result<u32>;
    #[rpc(blocking)]
    async fn blocks(&self, milliseconds: u64) -> Result<()>;
    #[rpc(spawn)]
    async fn computes(&self, milliseconds: u64) -> Result<()>;
    /// Holds the thread without saying so.
    async fn holds(&self, milliseconds: u64) -> Result<()>;
    async fn thread(&self) -> Result<String>;
    #[rpc(spawn)]
    async fn spawned_thread(&self) -> Result<String>;
}

#[derive(Default)]
struct Worker {
    held: Arc<AtomicBool>,
}

fn hold(milliseconds: u64) {
    let until = Instant::now() + Duration::from_millis(milliseconds);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn thread() -> String {
    let id: ThreadId = std::thread::current().id();
    format!("{id:?}, task {:?}", tokio::task::id())
}

impl Work for Worker {
    async fn quick(&self) -> Result<u32> {
        Ok(1)
    }
    async fn blocks(&self, milliseconds: u64) -> Result<()> {
        std::thread::sleep(Duration::from_millis(milliseconds));
        Ok(())
    }
    async fn computes(&self, milliseconds: u64) -> Result<()> {
        hold(milliseconds);
        Ok(())
    }
    async fn holds(&self, milliseconds: u64) -> Result<()> {
        self.held.store(true, Ordering::SeqCst);
        hold(milliseconds);
        Ok(())
    }
    async fn thread(&self) -> Result<String> {
        Ok(thread())
    }
    async fn spawned_thread(&self) -> Result<String> {
        Ok(thread())
    }
}

async fn pair(mode: Option<Dispatch>) -> (Server, WorkClient) {
    let mut builder = Server::builder().provide(WorkServer::new(Worker::default()));
    if let Some(mode) = mode {
        builder = builder.dispatch(mode);
    }
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let client = WorkClient::connect(server.local_uri()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn a_method_runs_where_its_contract_or_else_the_server_says() {
    // In place, all calls of a connection run in the task that reads it; spawned, each in its own. A
    // machine under load may stop a call for so long that it counts as one that holds its thread.
    let mut in_place = false;
    for _ in 0..20 {
        let (_server, work) = pair(None).await;
        in_place |= work.thread().await.unwrap() == work.thread().await.unwrap();
    }
    assert!(in_place);
    let (_server, work) = pair(None).await;
    assert_ne!(work.spawned_thread().await.unwrap(), work.spawned_thread().await.unwrap());
    let (_server, work) = pair(Some(Dispatch::Spawn)).await;
    assert_ne!(work.thread().await.unwrap(), work.thread().await.unwrap());
}

#[tokio::test]
async fn methods_marked_blocking_do_not_delay_others_even_on_one_thread() {
    let (_server, work) = pair(None).await;
    let blocked: Vec<_> = (0..8)
        .map(|_| {
            let work = work.clone();
            tokio::spawn(async move { work.blocks(1_500).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let started = Instant::now();
    for _ in 0..100 {
        work.quick().await.unwrap();
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1_000), "100 quick calls took {took:?}");
    for call in blocked {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_holds_the_thread_unasked_is_found_out_and_moved() {
    let (_server, work) = pair(None).await;
    work.holds(5).await.unwrap();
    // From now on it does not hold up the connection: another thread goes on with that.
    let holding = tokio::spawn({
        let work = work.clone();
        async move { work.holds(1_500).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    work.quick().await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1_000), "a quick call took {took:?}");
    holding.await.unwrap().unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Old {
    name: String,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct New {
    #[serde(default)]
    title: Option<String>,
    name: String,
}
mod old {
    #[rpc_runtime::rpc_service]
    pub trait Echo {
        async fn echo(&self, value: super::Old) -> rpc_runtime::Result<super::Old>;
    }
}
mod new {
    #[rpc_runtime::rpc_service]
    pub trait Echo {
        async fn echo(
            &self,
            value: super::New,
            twice: Option<bool>,
        ) -> rpc_runtime::Result<super::New>;
    }
}
use new::Echo as _;
use old::Echo as _;

struct Echoes;
impl new::Echo for Echoes {
    async fn echo(&self, value: New, twice: Option<bool>) -> Result<New> {
        assert_eq!(twice, None);
        Ok(value)
    }
}

#[tokio::test]
async fn an_old_consumer_and_a_new_provider_understand_each_other() {
    let builder = Server::builder().provide(new::EchoServer::new(Echoes));
    let server = builder.bind("memory:old-and-new").await.unwrap();
    let client = Client::builder().connect(server.local_uri()).await.unwrap();
    let value = Old { name: "x".into() };
    assert_eq!(old::EchoClient::new(client.clone()).echo(value.clone()).await.unwrap(), value);
    // Compact is for ends with the very same types: the mismatch is an error and no wrong value.
    let compact = client.with_encoding(Encoding::Compact);
    let error = old::EchoClient::new(compact.clone()).echo(value).await.unwrap_err();
    assert!(error.is_decode() && error.is_safe_to_retry(), "{error}");
    let value = New { title: Some("t".into()), name: "x".into() };
    assert_eq!(new::EchoClient::new(compact).echo(value.clone(), None).await.unwrap(), value);
}
