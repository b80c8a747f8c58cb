//! Providers that are restarted one after the other, under load: nobody notices.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rpc_registry::Registry;
use rpc_runtime::Server;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, Seen};
use rpc_tests::waiting::{soon, until};

const PROVIDERS: usize = 3;
const ROUNDS: usize = 4;
const CALLERS: u64 = 16;
const CALLS: u64 = 20_000;

struct Restarted {
    server: Server,
    seen: Arc<Seen>,
}

impl Restarted {
    async fn start(registry: &Arc<dyn Registry>, uri: &str) -> Self {
        let provider = Provider::new("rolling");
        let seen = provider.seen();
        let server = Server::builder().provide(ProbeServer::new(provider));
        let server = server.registry(Arc::clone(registry)).bind(uri).await.unwrap();
        Self { server, seen }
    }

    /// Ends the provider, and starts it again at the same address.
    async fn restart(self, registry: &Arc<dyn Registry>) -> Self {
        let uri = self.server.local_uri().to_owned();
        soon("shutdown", self.server.shutdown()).await.unwrap();
        assert_eq!(self.seen.dropped(), 0, "a call was cut off");
        Self::start(registry, &uri).await
    }
}

/// Restarts all, again and again, while clients call.
async fn roll(registry: &str) {
    let registry = rpc_registry::connect(registry).await.unwrap();
    let mut providers = Vec::new();
    for _ in 0..PROVIDERS {
        providers.push(Restarted::start(&registry, "tcp://127.0.0.1:0").await);
    }
    let probe = ProbeClient::discover(Arc::clone(&registry)).await.unwrap();
    let stop = Arc::<AtomicBool>::default();
    let answered = Arc::<AtomicU64>::default();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (probe, stop) = (probe.clone(), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let text = format!("call {n} of {caller}");
                    // Some are answered in place, some later.
                    match n % 4 {
                        0 => assert_eq!(probe.sleep(2).await, Ok(2), "{text}"),
                        _ => assert_eq!(probe.echo(text.clone()).await, Ok(text)),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..ROUNDS {
        for _ in 0..PROVIDERS {
            let provider = providers.remove(0).restart(&registry).await;
            until("the provider that came back gets calls", || {
                provider.seen.started() > 50 || callers.iter().any(|caller| caller.is_finished())
            })
            .await;
            providers.push(provider);
        }
    }
    until("enough calls were made", || {
        answered.load(Ordering::Relaxed) >= CALLS
            || callers.iter().any(|caller| caller.is_finished())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        soon("the caller's end", caller).await.expect("no call fails");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_all_providers_of_a_file_registry_are_restarted_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    roll(&format!("file://{}", folder.path().display())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_all_providers_of_a_memory_registry_are_restarted_in_turn() {
    roll("memory:rolling-restart").await;
}
