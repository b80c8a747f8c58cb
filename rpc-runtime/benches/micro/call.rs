//! Complete calls, with both ends on one thread and a pipe in memory between them.

use divan::Bencher;
use divan::counter::ItemsCount;
use rpc_runtime::Server;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::dispatch::{Echo, EchoClient, EchoServer, Provider};
use crate::order::order;

/// Calls of each caller, so that the start of a caller does not count.
const EACH: usize = 16;

fn connected() -> (Runtime, Server, EchoClient) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, client) = runtime.block_on(async {
        let server = Server::builder().provide(EchoServer::new(Provider));
        let server = server.bind("memory:micro").await.unwrap();
        let client = EchoClient::connect(server.local_uri()).await.unwrap();
        (server, client)
    });
    (runtime, server, client)
}

#[divan::bench(args = [1, 64])]
fn number(bencher: Bencher<'_, '_>, callers: usize) {
    calls(bencher, callers, |client| async move { assert_eq!(client.number(7).await, Ok(7)) });
}

#[divan::bench(args = [1, 64])]
fn order_echoed(bencher: Bencher<'_, '_>, callers: usize) {
    calls(bencher, callers, |client| async move {
        assert!(client.order(order()).await.is_ok());
    });
}

fn calls<F>(bencher: Bencher<'_, '_>, callers: usize, call: fn(EchoClient) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (runtime, server, client) = connected();
    bencher.counter(ItemsCount::new(callers * EACH)).bench_local(|| {
        runtime.block_on(async {
            let mut all = JoinSet::new();
            for _ in 0..callers {
                let client = client.clone();
                all.spawn(async move {
                    for _ in 0..EACH {
                        call(client.clone()).await;
                    }
                });
            }
            all.join_all().await;
        });
    });
    drop(client);
    runtime.block_on(server.shutdown()).unwrap();
}
