//! Two providers, one of which is killed while calls continue.
//!
//! ```text
//! cargo run --bin failover -- [--registry URI]
//! ```
//!
//! Without the URI of a registry, it uses a folder that is removed at the end. With a URI, it shows
//! how soon that kind of registry detects a dead provider. Calls do not wait for it.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rpc_examples::process::{PATIENCE, Process, end_of_input};
use rpc_registry::{Instance, Snapshot, Watch};
use rpc_runtime::{Server, rpc_service};
use tokio::time::{Instant, sleep, timeout};

const USAGE: &str = "usage: failover [--registry URI]";
/// Maximum time in which a registry must detect a dead provider.
const LONGEST_LEASE: Duration = Duration::from_secs(150);
/// Maximum attempts of a call that can be repeated.
const ATTEMPTS: usize = 5;

/// Returns the id of the process that answers. Idempotent, so callers can repeat a call.
#[rpc_service(name = "FailoverExample")]
trait Who {
    #[rpc(idempotent, timeout = "2s")]
    async fn process(&self) -> rpc_runtime::Result<u32>;
}

struct This;

impl Who for This {
    async fn process(&self) -> rpc_runtime::Result<u32> {
        Ok(std::process::id())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let shown = async {
        match args[..] {
            [] => {
                let folder = tempfile::Builder::new().prefix("rpc-failover-").tempdir();
                let folder = folder.context("cannot make a folder for the registry")?;
                show(&rpc_registry::file_uri(folder.path())?).await
            }
            ["--registry", registry] => show(registry).await,
            ["provider", registry] => provide(registry).await,
            _ => bail!("unknown arguments {args:?}\n{USAGE}"),
        }
    };
    tokio::select! {
        biased;
        // Dropping the future ends the processes.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        shown = shown => shown,
    }
}

async fn provide(registry: &str) -> anyhow::Result<()> {
    let server = Server::builder()
        .provide(WhoServer::new(This))
        .registry(rpc_examples::registry(registry).await?)
        .metadata("pid", std::process::id().to_string())
        .bind("tcp://127.0.0.1:0")
        .await?;
    println!("serving at {}", server.local_uri());
    server.serve_until(end_of_input()).await?;
    Ok(())
}

async fn show(uri: &str) -> anyhow::Result<()> {
    println!("1. Two providers register in {uri}");
    let mut first = start(uri).await?;
    let mut second = start(uri).await?;

    let registry = rpc_examples::registry(uri).await?;
    let mut watch = registry.watch("FailoverExample").await?;
    let both = |now: &Snapshot| has(now, first.pid) && has(now, second.pid);
    until(&mut watch, PATIENCE, "both providers in the registry", both).await?;
    let mut consumer = Consumer { who: WhoClient::discover(registry).await?, again: 0 };
    println!("   50 calls were answered by {}", list(&consumer.call_both().await?));

    println!("2. Process {} is killed while calls are made", first.pid);
    let dead = first.pid;
    let mut other = watch.clone();
    // In a separate task, so that the time of the calls does not count.
    let learned = tokio::spawn(async move {
        let gone = |now: &Snapshot| !has(now, dead);
        until(&mut other, LONGEST_LEASE, "the dead provider gone from the registry", gone).await?;
        anyhow::Ok(Instant::now())
    });
    let kill = async {
        sleep(Duration::from_millis(50)).await;
        let killed = Instant::now();
        first.kill().await?;
        Ok(killed)
    };
    let (answers, killed) = tokio::try_join!(consumer.call(100), kill)?;
    println!("   100 calls were answered by {}", list(&answers));
    println!("   None failed; {} were repeated, which is safe here", consumer.again);
    let answers = consumer.call(50).await?;
    println!("   50 more were answered by {}", list(&answers));
    ensure!(!answers.contains_key(&dead), "a dead process answered");
    let learned = learned.await??;
    println!("   The registry took it off the list {} ms after", (learned - killed).as_millis());

    println!("3. Another provider takes its place");
    let mut third = start(uri).await?;
    let arrived = |now: &Snapshot| has(now, third.pid);
    until(&mut watch, PATIENCE, "the new provider in the registry", arrived).await?;
    println!("   50 calls were answered by {}", list(&consumer.call_both().await?));

    println!("4. Both are asked to stop");
    second.finish().await?;
    third.finish().await?;
    let none = |now: &Snapshot| !has(now, second.pid) && !has(now, third.pid);
    until(&mut watch, PATIENCE, "an empty registry", none).await?;
    println!("   The registry has no provider any more");
    Ok(())
}

async fn start(registry: &str) -> anyhow::Result<Process> {
    let mut provider = Process::start("provider", &["provider", registry])?;
    provider.show_until("serving at").await?;
    Ok(provider)
}

struct Consumer {
    who: WhoClient,
    /// Number of repeated calls.
    again: usize,
}

impl Consumer {
    /// Makes `times` calls. Returns how often each process has answered.
    async fn call(&mut self, times: usize) -> anyhow::Result<BTreeMap<u32, usize>> {
        let mut answers = BTreeMap::new();
        for _ in 0..times {
            *answers.entry(self.call_once().await?).or_default() += 1;
            sleep(Duration::from_millis(2)).await;
        }
        Ok(answers)
    }

    /// Calls until both processes are among 50 answers. A connection is opened in the background,
    /// and the other provider answers until then.
    async fn call_both(&mut self) -> anyhow::Result<BTreeMap<u32, usize>> {
        let both = async {
            loop {
                let answers = self.call(50).await?;
                if answers.len() == 2 {
                    return Ok(answers);
                }
            }
        };
        timeout(PATIENCE, both).await.context("only one of the providers answers")?
    }

    /// Calls once, and repeats the call if that is safe. The framework never repeats calls by
    /// itself.
    async fn call_once(&mut self) -> anyhow::Result<u32> {
        for _ in 1..ATTEMPTS {
            match self.who.process().await {
                Err(error) if error.is_safe_to_retry() => self.again += 1,
                answer => return Ok(answer?),
            }
        }
        Ok(self.who.process().await?)
    }
}

fn list(answers: &BTreeMap<u32, usize>) -> String {
    let lines = answers.iter().map(|(pid, times)| format!("process {pid}: {times}"));
    lines.collect::<Vec<_>>().join(", ")
}

/// Whether the process is registered.
fn has(now: &Snapshot, pid: u32) -> bool {
    let pid = pid.to_string();
    now.iter().any(|it: &Instance| it.metadata().get("pid") == Some(&pid))
}

/// Waits until the snapshot meets the condition.
async fn until(
    watch: &mut Watch,
    patience: Duration,
    what: &str,
    wanted: impl Fn(&Snapshot) -> bool,
) -> anyhow::Result<()> {
    let seen = async {
        while !wanted(&watch.changed().await?) {}
        anyhow::Ok(())
    };
    timeout(patience, seen).await.with_context(|| format!("no {what} within {patience:?}"))?
}
