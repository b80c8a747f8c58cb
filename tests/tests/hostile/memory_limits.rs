//! Clients that mean well meet the limits of memory: their calls wait, and none is lost.
#![allow(missing_docs)]

use std::time::Duration;

use futures::future::join_all;
use rpc_runtime::{
    Blob, Client, Dispatch, MemoryLimits, Result, Server, ServerBuilder, Streaming, rpc_service,
};
use rpc_tests::waiting::within;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

#[rpc_service(name = "e2e.Large")]
trait Large {
    async fn echo(&self, blob: Blob) -> Result<Blob>;
    /// The same, a while later.
    async fn echo_later(&self, blob: Blob) -> Result<Blob>;
    async fn make(&self, bytes: usize) -> Result<Blob>;
    async fn sum(&self, first: Blob, items: Streaming<Blob>) -> Result<usize>;
    /// Takes a stream only after a while.
    async fn sum_later(&self, items: Streaming<Blob>) -> Result<usize>;
    async fn items(&self, bytes: usize, count: usize) -> Result<Streaming<Blob>>;
}

struct Provider;

async fn sum(mut items: Streaming<Blob>) -> Result<usize> {
    let mut sum = 0;
    while let Some(item) = items.next().await {
        sum += item?.len();
    }
    Ok(sum)
}

impl Large for Provider {
    async fn echo(&self, blob: Blob) -> Result<Blob> {
        Ok(blob)
    }
    async fn echo_later(&self, blob: Blob) -> Result<Blob> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(blob)
    }
    async fn make(&self, bytes: usize) -> Result<Blob> {
        Ok(vec![7; bytes].into())
    }
    async fn sum(&self, first: Blob, items: Streaming<Blob>) -> Result<usize> {
        Ok(first.len() + sum(items).await?)
    }
    async fn sum_later(&self, items: Streaming<Blob>) -> Result<usize> {
        tokio::time::sleep(SECOND / 5).await;
        sum(items).await
    }
    async fn items(&self, bytes: usize, count: usize) -> Result<Streaming<Blob>> {
        Ok(Streaming::from_items((0..count).map(move |_| Blob::from(vec![7; bytes]))))
    }
}

fn limits(connection: usize, address: usize) -> MemoryLimits {
    MemoryLimits::default().connection(connection).address(address).total(2 * address)
}

async fn serve(builder: ServerBuilder) -> Server {
    builder.provide(LargeServer::new(Provider)).bind("tcp://127.0.0.1:0").await.unwrap()
}

async fn clients(server: &Server, count: usize, memory: MemoryLimits) -> Vec<LargeClient> {
    let connect = |_| async {
        let client = Client::builder().memory_limits(memory).connect(server.local_uri()).await;
        LargeClient::new(client.unwrap()).with_timeout(30 * SECOND)
    };
    join_all((0..count).map(connect)).await
}

fn blob(bytes: usize, seed: usize) -> Blob {
    vec![seed as u8; bytes].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_more_than_there_is_memory_for_wait_and_all_are_answered() {
    for dispatch in [Dispatch::Inline, Dispatch::Spawn, Dispatch::Blocking] {
        let memory = limits(MIB, 2 * MIB);
        let server = serve(Server::builder().dispatch(dispatch).memory_limits(memory)).await;
        let clients = clients(&server, 4, memory).await;
        let calls = clients.iter().flat_map(|client| {
            (0..30).map(move |n| async move {
                let sent = blob(300 * KIB, n);
                let got = match n % 2 {
                    0 => client.echo(sent.clone()).await,
                    _ => client.echo_later(sent.clone()).await,
                };
                assert!(got.unwrap() == sent);
            })
        });
        within(30 * SECOND, "the answers", join_all(calls)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_larger_than_all_limits_is_let_in_alone() {
    let memory = limits(0, 0);
    let server = serve(Server::builder().memory_limits(memory)).await;
    let clients = clients(&server, 3, memory).await;
    let calls = clients.iter().flat_map(|client| {
        (0..4).map(move |n| async move {
            let sent = blob(MIB, n);
            assert!(client.echo_later(sent.clone()).await.unwrap() == sent);
        })
    });
    within(30 * SECOND, "the answers", join_all(calls)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_server_answers_many_calls_of_the_largest_payload_at_once() {
    let server = serve(Server::builder()).await;
    let clients = clients(&server, 2, MemoryLimits::default()).await;
    let calls = clients.iter().flat_map(|client| {
        (0..12).map(move |n| async move {
            let sent = blob(8 * MIB - 64, n);
            let got = match n % 3 {
                0 => client.echo(sent.clone()).await,
                1 => client.echo_later(sent.clone()).await,
                _ => client.make(sent.len()).await,
            };
            assert_eq!(got.unwrap().len(), sent.len());
        })
    });
    within(60 * SECOND, "the answers", join_all(calls)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_streams_share_the_window_of_their_connection_and_none_is_lost() {
    let memory = limits(512 * KIB, 4 * MIB);
    let server = serve(Server::builder().memory_limits(memory)).await;
    let client = clients(&server, 1, memory).await.remove(0);
    let up = (0..20).map(|_| async {
        let items = Streaming::from_items((0..20).map(|n| blob(30 * KIB, n)));
        assert_eq!(client.sum_later(items).await.unwrap(), 20 * 30 * KIB);
    });
    within(30 * SECOND, "the sums", join_all(up)).await;
    let down = (0..20).map(|_| async {
        let items = client.items(30 * KIB, 20).await.unwrap();
        tokio::time::sleep(SECOND / 10).await;
        assert_eq!(sum(items).await.unwrap(), 20 * 30 * KIB);
    });
    within(30 * SECOND, "the items", join_all(down)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_give_their_part_of_the_window_back_when_they_are_dropped() {
    let memory = limits(512 * KIB, 4 * MIB);
    let server = serve(Server::builder()).await;
    let client = clients(&server, 1, memory).await.remove(0);
    for _ in 0..20 {
        let unread = join_all((0..3).map(|_| client.items(50 * KIB, 100))).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(unread);
    }
    let items = within(5 * SECOND, "the stream", client.items(50 * KIB, 100)).await.unwrap();
    assert_eq!(within(5 * SECOND, "its items", sum(items)).await.unwrap(), 5_000 * KIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_memory_is_kept_get_the_items_they_wait_for() {
    // The arguments of these fill the connection; what ends them comes behind.
    let memory = limits(MIB, 8 * MIB);
    let server = serve(Server::builder().memory_limits(memory)).await;
    let client = clients(&server, 1, MemoryLimits::default()).await.remove(0);
    let calls = (0..4).map(|n| {
        let client = client.clone();
        async move {
            let items = Streaming::from_items((0..20).map(move |_| blob(100 * KIB, n)));
            let sum = client.sum(blob(300 * KIB, n), items).await.unwrap();
            assert_eq!(sum, 2_300 * KIB);
        }
    });
    within(20 * SECOND, "the sums", join_all(calls)).await;
}
