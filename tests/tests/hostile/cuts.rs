//! Connections that are cut at any byte, and servers that end, while calls are in interceptors.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc_runtime::{
    Call, Client, Interceptor, Next, Reply, Result, RpcError, Server, Streaming, rpc_service,
};
use rpc_tests::random::Random;
use rpc_tests::waiting::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[rpc_service(name = "e2e.Once")]
trait Once {
    async fn run(&self, n: u64, padding: String) -> Result<u64>;
    #[rpc(blocking)]
    async fn run_on_thread(&self, n: u64) -> Result<u64>;
    #[rpc(oneway)]
    async fn note(&self, n: u64) -> Result<()>;
    async fn count(&self, items: Streaming<u64>) -> Result<u64>;
}

#[derive(Clone, Default)]
struct Runs(Arc<Mutex<HashMap<u64, usize>>>);

impl Runs {
    fn ran(&self, n: u64) {
        *self.0.lock().unwrap().entry(n).or_default() += 1;
    }

    fn of(&self, n: u64) -> usize {
        self.0.lock().unwrap().get(&n).copied().unwrap_or_default()
    }
}

impl Once for Runs {
    async fn run(&self, n: u64, _padding: String) -> Result<u64> {
        self.ran(n);
        if n.is_multiple_of(3) {
            tokio::time::sleep(Duration::from_millis(n % 4)).await;
        }
        Ok(n)
    }
    async fn run_on_thread(&self, n: u64) -> Result<u64> {
        self.ran(n);
        Ok(n)
    }
    async fn note(&self, n: u64) -> Result<()> {
        self.ran(n);
        Ok(())
    }
    async fn count(&self, mut items: Streaming<u64>) -> Result<u64> {
        let mut count = 0;
        while let Some(item) = items.next().await {
            item?;
            count += 1;
        }
        Ok(count)
    }
}

/// Waits before and after the method, and tries to run it twice.
struct Slow;

impl Interceptor for Slow {
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply> {
        let n: u64 = call.metadata("n").and_then(|n| n.parse().ok()).unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(n % 3)).await;
        let outcome = match n % 7 {
            // Given up before it has begun, or while it runs.
            0 => {
                let begun = next.again().run(call);
                let _ = tokio::time::timeout(Duration::from_millis(n % 2), begun).await;
                next.run(call).await
            }
            1 => {
                drop(next.again().run(call));
                next.run(call).await
            }
            _ => next.run(call).await,
        };
        tokio::time::sleep(Duration::from_millis(n % 2)).await;
        outcome.map(|reply| reply.with_metadata("n", n.to_string()))
    }
}

/// Repeats what is safe to repeat.
struct Repeats;

impl Interceptor for Repeats {
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply> {
        for _ in 0..3 {
            match next.again().run(call).await {
                Err(error) if error.is_safe_to_retry() => {}
                outcome => return outcome,
            }
        }
        next.run(call).await
    }
}

/// Passes so many bytes, then ends this direction, or resets the connection.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut left: usize, reset: bool) {
    let mut buffer = vec![0; 1 + left % 97];
    while left > 0 {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { break };
        let passed = read.min(left);
        if to.write_all(&buffer[..passed]).await.is_err() {
            break;
        }
        left -= passed;
    }
    if reset {
        let _ = to.as_ref().set_zero_linger();
        let _ = from.as_ref().set_zero_linger();
    }
    // Dropped: half of the connection is closed, the other half may go on.
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_connections_that_are_cut_at_any_byte_run_at_most_once() {
    let runs = Runs::default();
    let server = Server::builder().provide(OnceServer::new(runs.clone())).interceptor(Slow);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let target = server.local_uri().strip_prefix("tcp://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("tcp://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut pumps = JoinSet::new();
        let mut random = Random::new(11);
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let Ok(server) = TcpStream::connect(&target).await else { continue };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let mut cut = || match random.below(3) {
                0 => usize::MAX,
                1 => random.below(700) as usize,
                _ => random.below(20_000) as usize,
            };
            let cuts = (cut(), cut());
            let reset = random.below(2) == 0;
            pumps.spawn(async move {
                // The end of one direction leaves the other, or ends it.
                let up = pass(from_client, to_server, cuts.0, reset);
                let down = pass(from_server, to_client, cuts.1, reset);
                match reset {
                    true => tokio::select! { () = up => {}, () = down => {} },
                    false => drop(tokio::join!(up, down)),
                }
            });
        }
    });
    let ends = Instant::now() + Duration::from_secs(4);
    let callers: Vec<_> = (0..4_u64)
        .map(|caller| {
            let (proxy, runs) = (proxy.clone(), runs.clone());
            tokio::spawn(async move {
                let (mut n, mut kinds) = (caller << 32, [0_usize; 3]);
                while Instant::now() < ends {
                    let client = Client::builder().interceptor(Repeats);
                    let Ok(client) = client.connect(&proxy).await else { continue };
                    let once = OnceClient::new(client).with_timeout(Duration::from_secs(2));
                    n += 16;
                    let calls = (n..n + 16).map(|n| {
                        let once = once.with_metadata("n", n.to_string());
                        async move {
                            let outcome = match n % 5 {
                                0 => once.run_on_thread(n).await,
                                _ => once.run(n, "p".repeat((n % 300) as usize)).await,
                            };
                            (n, outcome)
                        }
                    });
                    let calls = futures::future::join_all(calls);
                    for (n, outcome) in soon("calls with a deadline", calls).await {
                        match outcome {
                            Ok(same) => {
                                assert_eq!((same, runs.of(n)), (n, 1));
                                kinds[0] += 1;
                            }
                            Err(error) if error.is_safe_to_retry() => {
                                assert_eq!(runs.of(n), 0, "{n}: {error:?}");
                                kinds[1] += 1;
                            }
                            Err(_) => kinds[2] += 1,
                        }
                    }
                }
                kinds
            })
        })
        .collect();
    let mut kinds = [0; 3];
    for caller in callers {
        let of = soon("a caller", caller).await.unwrap();
        kinds.iter_mut().zip(of).for_each(|(sum, one)| *sum += one);
    }
    eprintln!("answered, unexecuted, unknown: {kinds:?}");
    drop(tasks);
    until("all connections are freed", || server.channels().is_empty()).await;
    let twice: Vec<_> =
        runs.0.lock().unwrap().iter().filter(|(_, count)| **count > 1).map(|(n, _)| *n).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(kinds[0] > 100 && kinds[2] > 10, "{kinds:?}");
}

/// Waits for ever.
struct Waits;

impl Interceptor for Waits {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        if call.metadata("go").is_none() {
            std::future::pending::<()>().await;
        }
        next.run(call).await
    }
}

async fn with_waiting_calls(runs: &Runs) -> (Server, OnceClient, JoinSet<RpcError>) {
    let server = Server::builder()
        .provide(OnceServer::new(runs.clone()))
        .interceptor(Waits)
        .drain_timeout(Duration::from_millis(300));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let once = OnceClient::connect(server.local_uri()).await.unwrap();
    let mut calls = JoinSet::new();
    for n in 0..100 {
        let one = once.clone();
        calls.spawn(async move {
            match n % 4 {
                0 => one.run(n, "p".repeat(1 << 16)).await.unwrap_err(),
                1 => one.run_on_thread(n).await.unwrap_err(),
                2 => one.count(Streaming::from_items(0..1_000_000)).await.unwrap_err(),
                _ => {
                    one.note(n).await.unwrap();
                    one.run(n, String::new()).await.unwrap_err()
                }
            }
        });
    }
    // Behind all of them.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(once.with_metadata("go", "on").run(1_000, String::new()).await, Ok(1_000));
    (server, once, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_in_time_while_calls_wait_in_interceptors() {
    let runs = Runs::default();
    let (server, once, mut calls) = with_waiting_calls(&runs).await;
    let begun = Instant::now();
    let _ = soon("the end", server.shutdown()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    while let Some(error) = soon("the calls", calls.join_next()).await {
        let error = error.unwrap();
        assert!(!error.is_timeout(), "{error}");
    }
    assert_eq!(runs.0.lock().unwrap().len(), 1);
    drop(once);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_in_interceptors_are_dropped_with_their_connection() {
    let runs = Runs::default();
    let (server, once, mut calls) = with_waiting_calls(&runs).await;
    drop(once);
    calls.shutdown().await;
    until("all connections are freed", || server.channels().is_empty()).await;
    assert_eq!(runs.0.lock().unwrap().len(), 1);
    let begun = Instant::now();
    let _ = soon("the end", server.shutdown()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
