//! A provider and a consumer in two processes of their own, and what happens between them.
//!
//! ```text
//! cargo run --bin quickstart
//! ```
//!
//! The program starts itself twice more, as provider and as consumer, so that it needs no other
//! binary. What these two do is in the library, `examples/src/lib.rs`; here is only the stage.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::path::Path;
use std::process::{self, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long each step may take. Milliseconds do; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => {
            // In both cases all is cleaned up: leaving `show` drops the folder and the children.
            tokio::select! {
                // First, so that Ctrl-C is heard before there is anything to clean up.
                biased;
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                shown = show() => shown,
            }
        }
        ["provider", registry] => {
            rpc_examples::provide(registry, "tcp://127.0.0.1:0", end_of_input()).await
        }
        ["consumer", registry, name] => rpc_examples::consume(registry, name).await,
        _ => bail!("usage: quickstart"),
    }
}

async fn show() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("rpc-quickstart-")
        .tempdir()
        .context("cannot make a folder for the registry")?;
    let registry = rpc_registry::file_uri(folder.path())?;
    let list = folder.path().join("registry.jsonl");
    println!("1. A registry in a temporary folder: {registry}");

    println!("2. A provider starts, listens on a free port and announces itself.");
    let mut provider = Process::start("provider", &["provider", &registry])?;
    provider.show_until("serving HelloService").await?;
    println!("   The line of {}:", list.display());
    println!("   {}", announcement(&list)?.context("the provider is not in the registry file")?);

    println!(
        "3. A consumer looks the service up by its name, connects and calls hello(\"world\")."
    );
    let mut consumer = Process::start("consumer", &["consumer", &registry, "world"])?;
    consumer.show_until("Hello, world").await?;
    consumer.finish().await?;
    println!(
        "   `Hello, world` was made by process {}, asked by process {}; this is process {}.",
        provider.pid,
        consumer.pid,
        process::id()
    );

    println!("4. The provider is asked to stop: it drains and takes its announcement back.");
    provider.finish().await?;
    ensure!(announcement(&list)?.is_none(), "the provider is gone, but its entry is not");
    println!("   The registry file has no line of HelloService any more.");
    Ok(())
}

/// Ready when standard input ends: the way to ask a process to stop that works on every system.
/// It also ends with the process at the other end, so a provider never outlives the quickstart.
async fn end_of_input() {
    let mut ignored = Vec::new();
    // An input that fails is as much at its end as one that is closed.
    let _ = tokio::io::stdin().read_to_end(&mut ignored).await;
}

/// The line of `HelloService` in the registry's file.
fn announcement(list: &Path) -> anyhow::Result<Option<String>> {
    let lines =
        std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(lines.lines().find(|line| line.contains("\"HelloService\"")).map(str::to_owned))
}

/// This program in another process and another role. Killed when dropped.
struct Process {
    role: &'static str,
    pid: u32,
    child: Child,
    /// Closing it asks the process to stop.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {role}"))?;
        let stdout = child.stdout.take().context("the child has no output")?;
        Ok(Self {
            role,
            pid: child.id().context("the child has no process id")?,
            stdin: child.stdin.take(),
            lines: BufReader::new(stdout).lines(),
            child,
        })
    }

    /// Shows what the process prints, up to a line that contains `expected`.
    async fn show_until(&mut self, expected: &str) -> anyhow::Result<()> {
        let seen = async {
            while let Some(line) = self.show_line().await? {
                if line.contains(expected) {
                    return Ok(());
                }
            }
            bail!("the {} ended before it printed {expected:?}", self.role)
        };
        timeout(PATIENCE, seen)
            .await
            .with_context(|| format!("no {expected:?} within {PATIENCE:?}"))?
    }

    /// Asks the process to stop, and shows what it prints until it has ended well.
    async fn finish(&mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        let ended = async {
            while self.show_line().await?.is_some() {}
            anyhow::Ok(self.child.wait().await?)
        };
        let status = timeout(PATIENCE, ended)
            .await
            .with_context(|| format!("the process did not end within {PATIENCE:?}"))??;
        ensure!(status.success(), "the {} failed: {status}", self.role);
        Ok(())
    }

    async fn show_line(&mut self) -> anyhow::Result<Option<String>> {
        let line = self.lines.next_line().await?;
        if let Some(line) = &line {
            println!("   [{} {}] {line}", self.role, self.pid);
        }
        Ok(line)
    }
}
