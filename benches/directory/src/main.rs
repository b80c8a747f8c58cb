//! What changes of a long list of instances cost the calls of a client.
//!
//! A server listens on all addresses of the loopback network, so each `127.x.y.z` is an instance.
//! Windows without changes and windows in which an instance is replaced every 100 ms take turns;
//! the medians and their ratios are printed. Then instances are replaced while there are no calls,
//! and the CPU time of one change is printed, with what the registry takes for it.
//!
//! The server is a process of its own, since each connection takes an open file at either end.

mod instances;
mod server;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use harness::work::Call;
use harness::{Connection, Histogram, Result, Usage};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use ours::{ECHO_DESCRIPTOR, EchoClient};
use rpc_runtime::{Client, ClientBuilder, ConnectionState};
use tokio::task::JoinSet;

use crate::instances::Instances;
use crate::server::ServerProcess;

/// Callers at a time.
const CALLERS: usize = 16;
/// Time until all instances must be connected.
const WARM_UP: Duration = Duration::from_secs(180);
/// Time between two windows, in which new instances are connected.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Parser)]
struct Args {
    /// Instances of the service; several lengths are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "3000,10000")]
    instances: Vec<usize>,
    /// Pairs of windows.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a window.
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// Milliseconds between two changes.
    #[arg(long, default_value_t = 100)]
    every: u64,
    /// Instances that the client uses: all, or so many.
    #[arg(long, value_delimiter = ',', default_value = "all,20")]
    subset: Vec<String>,
}

fn main() -> ExitCode {
    let run = || -> Result<()> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        if server::is_server() {
            return runtime.block_on(server::serve());
        }
        runtime.block_on(measure(&Args::parse()))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> Result<()> {
    server::allow_many_files()?;
    println!("| instances | in use | changes | p50 µs | p99 µs | calls/s | others' CPU |");
    println!("| --: | --: | --- | --: | --: | --: | --: |");
    for &length in &args.instances {
        for subset in &args.subset {
            measure_one(args, length, subset).await?;
        }
    }
    Ok(())
}

async fn measure_one(args: &Args, length: usize, subset: &str) -> Result<()> {
    let in_use = if subset == "all" { length } else { subset.parse()? };
    let server = ServerProcess::start()?;
    let mut instances = Instances::register(length, server.port()).await?;
    let builder = with_subset(Client::builder(), if subset == "all" { usize::MAX } else { in_use });
    let client = builder.discover(instances.registry(), &ECHO_DESCRIPTOR).await?;
    connect_all(&client, in_use).await?;
    let (mut quiet, mut changing) = (Windows::default(), Windows::default());
    let window = Duration::from_secs_f64(args.secs);
    let every = Duration::from_millis(args.every);
    for _ in 0..args.rounds {
        quiet.add(call(&client, window, server.id()).await?);
        tokio::time::sleep(PAUSE).await;
        let changes = async { instances.replace_one_every(every, window).await };
        let (calls, changes) = tokio::join!(call(&client, window, server.id()), changes);
        changing.add(calls?);
        changes?;
        tokio::time::sleep(PAUSE).await;
    }
    println!("{}", quiet.row(length, in_use, "none"));
    println!("{}", changing.row(length, in_use, &format!("every {} ms", args.every)));
    println!(
        "| {length} | {in_use} | ratio | {:.2} | {:.2} | {:.2} | |",
        changing.median(|it| it.p50) / quiet.median(|it| it.p50),
        changing.median(|it| it.p99) / quiet.median(|it| it.p99),
        changing.median(|it| it.rate) / quiet.median(|it| it.rate),
    );
    let before = cpu_time()?;
    let changes = instances.replace_one_every(every, 2 * window).await?;
    tokio::time::sleep(PAUSE).await;
    let per_change = (cpu_time()? - before).as_secs_f64() * 1_000.0 / changes as f64;
    println!("| {length} | {in_use} | {per_change:.2} ms of CPU for one, without calls | | | | |");
    client.close().await;
    Ok(())
}

fn with_subset(builder: ClientBuilder, size: usize) -> ClientBuilder {
    builder.subset(size)
}

/// What this process has used so far.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

/// Calls until the client is connected to all that it uses.
async fn connect_all(client: &Client, in_use: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        call(client, Duration::from_millis(500), 0).await?;
        let connections = client.connections();
        let ready = connections.iter().filter(|it| it.state == ConnectionState::Ready).count();
        if ready == in_use {
            return Ok(());
        }
        if begun.elapsed() > WARM_UP {
            return Err(format!("{ready} of {in_use} instances are connected").into());
        }
    }
}

/// What was measured in a window.
struct Window {
    p50: f64,
    p99: f64,
    rate: f64,
    /// CPU seconds per second of other processes and of the hypervisor.
    others: f64,
}

/// All callers call for so long.
async fn call(client: &Client, window: Duration, server: u32) -> Result<Window> {
    let is_over = Arc::new(AtomicBool::new(false));
    let start = Usage::now(server)?;
    let mut callers = JoinSet::<Result<Histogram>>::new();
    for _ in 0..CALLERS {
        let (client, is_over) = (EchoClient::new(client.clone()), Arc::clone(&is_over));
        callers.spawn(async move {
            let mut histogram = Histogram::default();
            while !is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                client.call(Call::Text).await?;
                histogram.record(begun.elapsed().as_nanos() as u64);
            }
            Ok(histogram)
        });
    }
    tokio::time::sleep(window).await;
    is_over.store(true, Ordering::Relaxed);
    let mut all = Histogram::default();
    while let Some(histogram) = callers.join_next().await {
        all.merge(&histogram??);
    }
    let end = Usage::now(server)?;
    let seconds = end.at.duration_since(start.at).as_secs_f64();
    let own = (end.client - start.client) + (end.server - start.server);
    let others = (end.machine - start.machine) - own + (end.stolen - start.stolen);
    let us = |quantile| all.quantile(quantile) as f64 / 1_000.0;
    Ok(Window {
        p50: us(0.5),
        p99: us(0.99),
        rate: all.count() as f64 / seconds,
        others: others.max(0.0) / seconds,
    })
}

/// Windows of one kind.
#[derive(Default)]
struct Windows(Vec<Window>);

impl Windows {
    fn add(&mut self, window: Window) {
        self.0.push(window);
    }

    fn median(&self, figure: impl Fn(&Window) -> f64) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    fn row(&self, length: usize, in_use: usize, changes: &str) -> String {
        format!(
            "| {length} | {in_use} | {changes} | {:.0} | {:.0} | {:.0} | {:.2} |",
            self.median(|it| it.p50),
            self.median(|it| it.p99),
            self.median(|it| it.rate),
            self.median(|it| it.others),
        )
    }
}
