//! The cost of heartbeats, and their delay under load. Prints two tables:
//!
//! - the round-trip time of pings on an idle connection, and on one under full load;
//! - CPU time and memory of 10,000 connections with heartbeats only.
//!
//! The server is a separate process, as in the other benchmarks.

mod idle;
mod pinger;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use harness::work::Call;
use harness::{Connection, Histogram, Result};
use ours::{EchoClient, EchoServer, Service};
use rpc_runtime::{Client, Heartbeat, Server};

use crate::pinger::{Pinger, Pings};

/// The environment variable that starts the server, with its heartbeat interval in milliseconds.
const SERVER: &str = "RPC_BENCH_SERVER";
/// Pings of each measurement.
const PINGS: usize = 500;

fn main() -> ExitCode {
    let run = || -> Result<()> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        match std::env::var(SERVER) {
            Ok(interval) => runtime.block_on(serve(Duration::from_millis(interval.parse()?))),
            Err(_) => {
                runtime.block_on(round_trips())?;
                runtime.block_on(idle::measure())
            }
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(interval: Duration) -> Result<()> {
    idle::allow_many_files()?;
    let server = Server::builder()
        .provide(EchoServer::new(Service))
        .heartbeat(Heartbeat::default().interval(interval).timeout(3 * interval))
        .max_connections(idle::CONNECTIONS + 100)
        .max_connections_per_address(idle::CONNECTIONS + 100)
        .bind("tcp://127.0.0.1:0")
        .await?;
    println!("{}", server.local_uri());
    // Ends with the parent process.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    server.serve_until(ended).await?;
    Ok(())
}

/// A server in a separate process, which ends when this is dropped.
struct ServerProcess {
    child: Child,
    uri: String,
}

impl ServerProcess {
    fn start(interval: Duration) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER, interval.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut uri = String::new();
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        BufReader::new(stdout).read_line(&mut uri)?;
        Ok(Self { child, uri: uri.trim().to_owned() })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It has ended or ends soon.
        let _ = self.child.wait();
    }
}

/// The load while pings are sent.
#[derive(Clone, Copy)]
enum Load {
    None,
    /// 64 callers of W1.
    Small,
    /// Eight callers of W3 beside them.
    SmallAndLarge,
}

async fn round_trips() -> Result<()> {
    println!("| load on the connection | p50 µs | p99 µs | max µs |");
    println!("| --- | --: | --: | --: |");
    for (load, name) in [
        (Load::None, "none"),
        (Load::Small, "64 callers, W1"),
        (Load::SmallAndLarge, "64 callers, W1, and 8 callers, W3 (1 MiB)"),
    ] {
        let server = ServerProcess::start(Duration::from_secs(60))?;
        let (pings, round_trips) = Pings::new();
        let client = Client::builder()
            .pipeline(move || vec![Pinger::first(pings.clone())])
            .connect(&server.uri)
            .await?;
        let client = EchoClient::new(client);
        let callers = call(&client, load);
        let mut histogram = Histogram::default();
        for _ in 0..PINGS {
            let round_trip = round_trips.recv_timeout(Duration::from_secs(30))?;
            histogram.record(round_trip.as_nanos() as u64);
        }
        drop(callers);
        let us = |nanos: u64| nanos / 1_000;
        println!(
            "| {name} | {} | {} | {} |",
            us(histogram.quantile(0.5)),
            us(histogram.quantile(0.99)),
            us(histogram.max())
        );
    }
    Ok(())
}

/// Calls until the returned set is dropped.
fn call(client: &EchoClient, load: Load) -> tokio::task::JoinSet<()> {
    let mut callers = tokio::task::JoinSet::new();
    let (small, large) = match load {
        Load::None => (0, 0),
        Load::Small => (64, 0),
        Load::SmallAndLarge => (64, 8),
    };
    for _ in 0..small {
        let client = client.clone();
        callers.spawn(async move { while client.call(Call::Order(1)).await.is_ok() {} });
    }
    for _ in 0..large {
        let client = client.clone();
        callers.spawn(async move { while client.call(Call::Blob).await.is_ok() {} });
    }
    callers
}
