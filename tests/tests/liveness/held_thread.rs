//! Providers whose methods hold all threads for long.
#![allow(missing_docs)]

use std::thread;
use std::time::Duration;

use rpc_runtime::{Client, Heartbeat, HeartbeatMode, Result, Server, rpc_service};
use rpc_tests::waiting::soon;

const SECOND: Duration = Duration::from_secs(1);

#[rpc_service]
trait Busy {
    async fn hold(&self, milliseconds: u64) -> Result<u64>;
}

struct Inline;

impl Busy for Inline {
    async fn hold(&self, milliseconds: u64) -> Result<u64> {
        thread::sleep(Duration::from_millis(milliseconds));
        Ok(milliseconds)
    }
}

async fn is_not_taken_for_dead(mode: HeartbeatMode) {
    let (bound, uri) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let provider = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::builder()
                .provide(BusyServer::new(Inline))
                .heartbeat(Heartbeat::default().mode(mode));
            let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
            bound.send(server.local_uri().to_owned()).unwrap();
            let _ = stopped.await;
        });
    });
    let heartbeat = Heartbeat::default().interval(SECOND / 2).timeout(SECOND);
    let client = Client::builder().heartbeat(heartbeat).connect(uri.await.unwrap()).await.unwrap();
    let busy = BusyClient::new(client);
    assert_eq!(soon("the call", busy.hold(1_500)).await, Ok(1_500), "{mode:?}");
    drop(stop);
    provider.join().unwrap();
}

#[tokio::test]
async fn a_provider_whose_only_thread_is_held_is_not_taken_for_dead() {
    is_not_taken_for_dead(HeartbeatMode::Bidirectional).await;
}

#[tokio::test]
async fn nor_is_one_that_waits_for_its_client_to_ask() {
    is_not_taken_for_dead(HeartbeatMode::Client).await;
}

#[tokio::test]
async fn nor_is_one_that_asks_nothing() {
    is_not_taken_for_dead(HeartbeatMode::Off).await;
}
