//! Calls, while their registry is away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::sync::Arc;
use std::time::Duration;

use crate::common::{registry, server};
use rpc_registry::{Instance, Registry};
use rpc_runtime::{Server, rpc_service};
use tokio::time::{Instant, sleep};

#[rpc_service(name = "OutageTest")]
trait Number {
    async fn number(&self) -> rpc_runtime::Result<u32>;
}

struct Seven;

impl Number for Seven {
    async fn number(&self) -> rpc_runtime::Result<u32> {
        Ok(7)
    }
}

async fn calls(client: &NumberClient, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert_eq!(client.number().await.unwrap(), 7, "after {:?}", begun.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Everything is in this process, over `memory:`, so the time can be virtual.
#[tokio::test(start_paused = true)]
async fn calls_go_on_while_the_registry_is_away_and_when_it_is_back_without_what_it_knew() {
    const NAMES: &str = "memory:calls-names";
    let names = server(NAMES).await;
    let announced: Arc<dyn Registry> = Arc::new(registry(&[NAMES]).await);
    let provide = async |uri: &str| {
        let builder = Server::builder().provide(NumberServer::new(Seven));
        let server = builder.bind(uri).await.unwrap();
        // By hand, since a server announces `memory:` addresses in registries of its process only.
        let instance = Instance::new("OutageTest", uri);
        (server, announced.register(instance).await.unwrap())
    };
    let (one, lease_of_one) = provide("memory://calls-one").await;
    let (_two, _lease) = provide("memory://calls-two").await;
    let looked_up: Arc<dyn Registry> = Arc::new(registry(&[NAMES]).await);
    let client = NumberClient::discover(looked_up).await.unwrap();
    calls(&client, Duration::from_secs(1)).await;
    drop(names);
    calls(&client, Duration::from_secs(300)).await;
    let _names = server(NAMES).await;
    calls(&client, Duration::from_secs(300)).await;
    // And it hears of changes again.
    lease_of_one.revoke().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    one.shutdown().await.unwrap();
    calls(&client, Duration::from_secs(10)).await;
}
