//! Ends whose threads are all held by users' code.
#![allow(missing_docs)]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rpc_runtime::{Client, Heartbeat, Result, Server, rpc_service};
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

fn heartbeat() -> Heartbeat {
    let interval = Duration::from_millis(250);
    Heartbeat::default().interval(interval).timeout(4 * interval)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_whose_threads_are_all_held_is_not_taken_for_dead() {
    let (bound, uri) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let provider = thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let server =
                Server::builder().provide(RudeServer::new(Provider)).heartbeat(heartbeat());
            let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
            bound.send(server.local_uri().to_owned()).unwrap();
            server.serve_until(stopped).await.unwrap();
        });
    });
    let uri = uri.recv().unwrap();
    let connect = || async {
        let client = Client::builder().heartbeat(heartbeat()).connect(&uri).await.unwrap();
        RudeClient::new(client)
    };
    let (busy, idle) = (connect().await, connect().await);
    assert_eq!((busy.echo(1).await, idle.echo(2).await), (Ok(1), Ok(2)));
    // Three times the timeout: in the driver's own poll, and on the only worker thread.
    assert_eq!(soon("the rude method", busy.hold(3_000)).await, Ok(3_000));
    // A connection that had been given up would have been made again.
    assert_eq!((busy.echo(3).await, idle.echo(4).await), (Ok(3), Ok(4)));
    assert_eq!(reconnects(&busy) + reconnects(&idle), 0);
    stop.send(()).unwrap();
    drop((busy, idle));
    provider.join().unwrap();
}

fn reconnects(client: &RudeClient) -> u64 {
    AsRef::<Client>::as_ref(client)
        .connections()
        .iter()
        .map(|connection| connection.reconnects)
        .sum()
}
