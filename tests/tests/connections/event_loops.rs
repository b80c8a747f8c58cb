//! Servers with threads of their own.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_runtime::{Client, Context, Result, RpcError, Server, rpc_service};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use rpc_tests::waiting::{soon, until};
use serde::{Deserialize, Serialize};

/// The thread that a method runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Thread {
    name: String,
    /// Where the system tells about it.
    path: String,
    /// The cores that it may use.
    cores: String,
    /// The caller's end of the connection.
    peer: String,
}

impl Thread {
    fn current() -> Result<Self> {
        let failed = |error: std::io::Error| RpcError::internal(error.to_string());
        let status = std::fs::read_to_string("/proc/thread-self/status").map_err(failed)?;
        let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let path = std::fs::read_link("/proc/thread-self").map_err(failed)?;
        Ok(Self {
            name: std::thread::current().name().unwrap_or_default().to_owned(),
            path: Path::new("/proc").join(path).to_string_lossy().into_owned(),
            cores: cores.unwrap_or_default().trim().to_owned(),
            peer: Context::current().peer().unwrap_or_default().to_owned(),
        })
    }
}

#[rpc_service]
trait Threads {
    async fn inline(&self) -> Result<Thread>;
    #[rpc(spawn)]
    async fn spawned(&self) -> Result<Thread>;
    #[rpc(blocking)]
    async fn blocking(&self) -> Result<Thread>;
    /// Calls the probe at `uri`, with a client of its own and with the one from outside.
    async fn relay(&self, uri: String) -> Result<i64>;
}

#[derive(Clone, Default)]
struct Told {
    outside: Option<ProbeClient>,
}

impl Threads for Told {
    async fn inline(&self) -> Result<Thread> {
        Thread::current()
    }
    async fn spawned(&self) -> Result<Thread> {
        Thread::current()
    }
    async fn blocking(&self) -> Result<Thread> {
        Thread::current()
    }
    async fn relay(&self, uri: String) -> Result<i64> {
        let sum = ProbeClient::connect(uri).await?.add(1, 2).await?;
        match &self.outside {
            Some(outside) => outside.add(sum, 4).await,
            None => Ok(sum),
        }
    }
}

async fn with_loops(loops: usize) -> Server {
    let server = Server::builder().provide(ThreadsServer::new(Told::default())).event_loops(loops);
    soon("binding", server.bind("tcp://127.0.0.1:0")).await.unwrap()
}

/// A client with so many open connections.
async fn connect(server: &Server, connections: usize) -> ThreadsClient {
    let client = Client::builder().connections(connections).connect(server.local_uri()).await;
    let client = client.unwrap();
    until("all connections are open", || client.channels().len() == connections).await;
    assert_eq!(server.channels().len(), connections);
    ThreadsClient::new(client)
}

/// That all go to one of two is as likely as to throw heads so many times.
const MANY: usize = 40;

#[tokio::test]
async fn each_connection_is_served_by_one_of_the_loops_with_all_but_blocking_methods() {
    let server = with_loops(2).await;
    let threads = connect(&server, MANY).await;
    let mut of_peers: HashMap<String, String> = HashMap::new();
    for _ in 0..3 * MANY {
        for thread in [threads.inline().await.unwrap(), threads.spawned().await.unwrap()] {
            let first = of_peers.entry(thread.peer).or_insert_with(|| thread.name.clone());
            assert_eq!(*first, thread.name);
        }
        let blocking = threads.blocking().await.unwrap();
        assert!(blocking.name.starts_with("rpc-block-"), "{blocking:?}");
    }
    assert_eq!(of_peers.len(), MANY);
    let names: HashSet<&str> = of_peers.values().map(String::as_str).collect();
    assert_eq!(names, HashSet::from(["rpc-loop-0", "rpc-loop-1"]));
}

#[tokio::test]
async fn loops_are_pinned_to_a_core_each_and_their_blocking_methods_are_not() {
    let all = Thread::current().unwrap().cores;
    let server = with_loops(2).await;
    let threads = connect(&server, MANY).await;
    let mut pinned = HashMap::new();
    for _ in 0..MANY {
        let thread = threads.inline().await.unwrap();
        assert!(thread.cores.parse::<usize>().is_ok(), "{thread:?}");
        pinned.insert(thread.name, thread.cores);
        assert_eq!(threads.blocking().await.unwrap().cores, all);
    }
    let cores: HashSet<&String> = pinned.values().collect();
    let only_one = all.parse::<usize>().is_ok();
    assert_eq!(cores.len(), if only_one { 1 } else { 2 }, "{pinned:?}");
}

#[tokio::test]
async fn a_port_that_was_left_open_is_the_same_for_all_loops() {
    let server = with_loops(3).await;
    let port: u16 = server.local_uri().rsplit_once(':').unwrap().1.parse().unwrap();
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
    assert_eq!(sockets.lines().filter(|line| line.contains(&listening)).count(), 3);
}

#[tokio::test]
async fn no_loops_stand_for_one_on_each_core() {
    let server = with_loops(0).await;
    let threads = connect(&server, MANY).await;
    let mut names = HashSet::new();
    for _ in 0..MANY {
        names.insert(threads.inline().await.unwrap().name);
    }
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(names.len() <= cores && names.len() >= cores.min(2), "{cores}: {names:?}");
}

#[tokio::test]
async fn an_address_that_another_server_has_is_in_use() {
    let first = with_loops(2).await;
    let uri = first.local_uri();
    let second = Server::builder().event_loops(2).bind(uri).await.unwrap_err();
    assert!(second.is_unavailable() && second.message().contains("in use"), "{second}");
    let without = Server::builder().bind(uri).await.unwrap_err();
    assert!(without.is_unavailable(), "{without}");

    let (plain, _) = serve("tcp://127.0.0.1:0").await;
    let second = Server::builder().event_loops(2).bind(plain.local_uri()).await.unwrap_err();
    assert!(second.is_unavailable(), "{second}");
}

#[tokio::test]
async fn loops_over_memory_are_refused() {
    let error = Server::builder().event_loops(2).bind("memory:loops").await.unwrap_err();
    assert!(error.is_invalid() && error.message().contains("event_loops"), "{error}");
}

#[tokio::test]
async fn methods_on_a_loop_call_other_providers() {
    let (other, _) = serve("tcp://127.0.0.1:0").await;
    let outside = Some(ProbeClient::connect(other.local_uri()).await.unwrap());
    let server = Server::builder().provide(ThreadsServer::new(Told { outside })).event_loops(2);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let threads = connect(&server, 8).await;
    for _ in 0..32 {
        assert_eq!(soon("relay", threads.relay(other.local_uri().to_owned())).await, Ok(7));
    }
    soon("shutdown", server.shutdown()).await.unwrap();
}

#[tokio::test]
async fn threads_end_with_a_server_that_is_dropped() {
    let server = with_loops(2).await;
    let threads = connect(&server, MANY).await;
    let mut paths = HashSet::new();
    for _ in 0..MANY {
        paths.insert(threads.inline().await.unwrap().path);
    }
    assert_eq!(paths.len(), 2);
    assert!(paths.iter().all(|path| Path::new(path).exists()));
    drop(server);
    until("the threads have ended", || paths.iter().all(|path| !Path::new(path).exists())).await;
    let error = soon("a call", threads.inline()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}

#[tokio::test]
async fn threads_have_ended_and_the_port_is_free_when_shutdown_is_done() {
    let server = with_loops(2).await;
    let uri = server.local_uri().to_owned();
    let threads = connect(&server, MANY).await;
    let mut paths = HashSet::new();
    for _ in 0..MANY {
        paths.insert(threads.inline().await.unwrap().path);
    }
    soon("shutdown", server.shutdown()).await.unwrap();
    // The system takes a moment to forget a thread that has been joined.
    until("the threads have ended", || paths.iter().all(|path| !Path::new(path).exists())).await;
    drop(Server::builder().event_loops(2).bind(uri).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_when_loops_are_shut_down_under_load() {
    let provider = Provider::new("loops");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider)).event_loops(2);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let client = Client::builder().connections(2).connect(server.local_uri()).await.unwrap();
        let probe = ProbeClient::new(client);
        let sleeper = probe.clone();
        tasks.push(tokio::spawn(async move { sleeper.sleep(300).await.map(drop) }));
        for _ in 0..8 {
            let (probe, answered) = (probe.clone(), Arc::clone(&answered));
            tasks.push(tokio::spawn(async move {
                loop {
                    match probe.add(1, 2).await {
                        Ok(sum) => assert_eq!(sum, 3),
                        Err(error) if error.is_safe_to_retry() => return Ok(()),
                        Err(error) => return Err(error),
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
    }
    until("load", || answered.load(Ordering::SeqCst) > 1_000 && seen.waiting() == 8).await;
    soon("shutdown", server.shutdown()).await.unwrap();
    for task in tasks {
        assert_eq!(soon("a task", task).await.unwrap(), Ok(()));
    }
    assert_eq!((seen.waiting(), seen.dropped()), (0, 0));
}

#[tokio::test]
async fn what_is_not_done_within_the_drain_timeout_is_cut_off() {
    let provider = Provider::new("loops");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider)).event_loops(2);
    let server = server.drain_timeout(Duration::from_millis(100)).bind("tcp://127.0.0.1:0").await;
    let server = server.unwrap();
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let call = tokio::spawn(async move { probe.wait().await });
    until("the call waits", || seen.waiting() == 1).await;
    soon("shutdown", server.shutdown()).await.unwrap();
    let error = soon("the call", call).await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    until("the method is dropped", || seen.dropped() == 1).await;
}
