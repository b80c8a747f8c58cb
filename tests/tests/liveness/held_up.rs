//! Ends whose threads are all held by users' code.
#![allow(missing_docs)]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rpc_runtime::{Client, Heartbeat, HeartbeatMode, Result, Server, rpc_service};
use rpc_tests::waiting::soon;

#[rpc_service]
trait Rude {
    /// Holds the thread that it is polled on.
    #[rpc(inline)]
    async fn hold(&self, milliseconds: u64) -> Result<u64>;
    async fn echo(&self, number: u64) -> Result<u64>;
}

struct Provider;

impl Rude for Provider {
    async fn hold(&self, milliseconds: u64) -> Result<u64> {
        thread::sleep(Duration::from_millis(milliseconds));
        Ok(milliseconds)
    }
    async fn echo(&self, number: u64) -> Result<u64> {
        Ok(number)
    }
}

fn every(interval: Duration) -> Heartbeat {
    Heartbeat::default().interval(interval)
}

/// A provider with one worker thread, of which a method takes so long, and two consumers.
async fn hold_all_threads(provider: Heartbeat, consumer: Heartbeat, held: Duration) {
    let (bound, uri) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let provider = thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let server = Server::builder().provide(RudeServer::new(Provider)).heartbeat(provider);
            let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
            bound.send(server.local_uri().to_owned()).unwrap();
            server.serve_until(stopped).await.unwrap();
        });
    });
    let uri = uri.recv().unwrap();
    let connect = || async {
        let client = Client::builder().heartbeat(consumer).connect(&uri).await.unwrap();
        RudeClient::new(client)
    };
    let (busy, idle) = (connect().await, connect().await);
    assert_eq!((busy.echo(1).await, idle.echo(2).await), (Ok(1), Ok(2)));
    // In the driver's own poll, and on the only worker thread.
    let milliseconds = held.as_millis() as u64;
    assert_eq!(soon("the rude method", busy.hold(milliseconds)).await, Ok(milliseconds));
    // A connection that had been given up would have been made again.
    assert_eq!((busy.echo(3).await, idle.echo(4).await), (Ok(3), Ok(4)));
    assert_eq!(reconnects(&busy) + reconnects(&idle), 0);
    stop.send(()).unwrap();
    drop((busy, idle));
    provider.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_whose_threads_are_all_held_is_not_taken_for_dead() {
    let heartbeat = every(Duration::from_millis(500));
    hold_all_threads(heartbeat, heartbeat, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_is_one_that_only_answers() {
    let off = Heartbeat::default().mode(HeartbeatMode::Off);
    hold_all_threads(off, every(Duration::from_secs(1)), Duration::from_secs(5)).await;
}

fn reconnects(client: &RudeClient) -> u64 {
    AsRef::<Client>::as_ref(client)
        .connections()
        .iter()
        .map(|connection| connection.reconnects)
        .sum()
}
