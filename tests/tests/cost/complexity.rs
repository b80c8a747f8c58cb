//! What strangers can make many of costs no more for each of them when there are more.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::{Client, Result, Server, Streaming, rpc_service};
use rpc_tests::complexity::{is_linear, processor_time};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::turn;
use tokio::task::JoinSet;

#[rpc_service(name = "e2e.Many")]
trait Many {
    /// Takes no item and never answers.
    async fn hold(&self, items: Streaming<u32>) -> Result<()>;
    /// As many items, one after the other.
    async fn count(&self, to: u32) -> Result<Streaming<u32>>;
}

struct Provides;

impl Many for Provides {
    async fn hold(&self, items: Streaming<u32>) -> Result<()> {
        let _items = items;
        std::future::pending().await
    }

    async fn count(&self, to: u32) -> Result<Streaming<u32>> {
        Ok(Streaming::from_items(0..to))
    }
}

/// Runs this in a thread's own runtime, both ends of the connection too, and says what it took.
fn cost<F: Future<Output = ()>>(work: impl FnOnce(Client) -> F) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::builder()
            .provide(ProbeServer::new(Provider::new("many")))
            .provide(ManyServer::new(Provides))
            .max_concurrent_requests(100_000)
            .bind("memory:complexity")
            .await
            .unwrap();
        let client = Client::builder().connect(server.local_uri()).await.unwrap();
        let started = processor_time();
        work(client).await;
        let taken = processor_time().saturating_sub(started);
        server.shutdown().await.unwrap();
        taken
    })
}

#[test]
fn calls_that_wait_and_are_cancelled() {
    let _turn = turn::mine_blocking();
    is_linear("calls that wait", 1_000, |n| {
        cost(|client| async move {
            let probe = ProbeClient::new(client);
            let mut calls = JoinSet::new();
            for _ in 0..n {
                let probe = probe.clone();
                calls.spawn(async move { probe.wait().await });
            }
            while probe.waiting().await.unwrap() < n {
                tokio::task::yield_now().await;
            }
            calls.shutdown().await;
            while probe.waiting().await.unwrap() > 0 {
                tokio::task::yield_now().await;
            }
        })
    });
}

#[test]
fn streams_that_are_open_and_dropped() {
    let _turn = turn::mine_blocking();
    is_linear("open streams", 500, |n| {
        cost(|client| async move {
            let many = ManyClient::new(client.clone());
            let mut open = Vec::new();
            let mut calls = JoinSet::new();
            for _ in 0..n {
                let (sender, items) = Streaming::channel(1);
                let many = many.clone();
                calls.spawn(async move { many.hold(items).await });
                open.push(sender);
            }
            let probe = ProbeClient::new(client);
            for _ in 0..n / 10 {
                assert_eq!(probe.add(1, 2).await, Ok(3));
            }
            drop(open);
            calls.shutdown().await;
            assert_eq!(probe.add(1, 2).await, Ok(3));
        })
    });
}

#[test]
fn streams_that_are_not_read() {
    let _turn = turn::mine_blocking();
    is_linear("unread streams", 250, |n| {
        cost(|client| async move {
            let many = ManyClient::new(client.clone());
            let mut open = Vec::new();
            for _ in 0..n {
                open.push(many.count(20).await.unwrap());
            }
            for mut items in open {
                while let Some(item) = items.next().await {
                    item.unwrap();
                }
            }
        })
    });
}
