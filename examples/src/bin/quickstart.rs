//! A provider and a consumer in two processes, with an explanation of each step.
//!
//! ```text
//! cargo run --bin quickstart
//! ```
//!
//! The program starts itself twice, as provider and as consumer, so it needs no other binary. The
//! code of both is in the library, `examples/src/lib.rs`.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::path::Path;
use std::process;

use anyhow::{Context, bail, ensure};
use rpc_examples::process::{Process, end_of_input};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => {
            // Both branches clean up: the end of `show` drops the folder and the child processes.
            tokio::select! {
                // Polled first, so that Ctrl-C is handled before there is anything to clean up.
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

    println!("2. A provider starts, listens on a free port and registers itself.");
    let mut provider = Process::start("provider", &["provider", &registry])?;
    provider.show_until("serving HelloService").await?;
    println!("   The line of {}:", list.display());
    println!("   {}", registration(&list)?.context("the provider is not in the registry file")?);

    println!(
        "3. A consumer looks the service up by its name, connects and calls hello(\"world\")."
    );
    let mut consumer = Process::start("consumer", &["consumer", &registry, "world"])?;
    consumer.show_until("Hello, world").await?;
    consumer.finish().await?;
    println!(
        "   Process {} answered `Hello, world` to process {}; this is process {}.",
        provider.pid,
        consumer.pid,
        process::id()
    );

    println!("4. The provider is stopped: it drains and removes its registration.");
    provider.finish().await?;
    ensure!(registration(&list)?.is_none(), "the provider is gone, but its entry is not");
    println!("   The registry file has no line of HelloService any more.");
    Ok(())
}

/// The line of `HelloService` in the file of the registry.
fn registration(list: &Path) -> anyhow::Result<Option<String>> {
    let lines =
        std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(lines.lines().find(|line| line.contains("\"HelloService\"")).map(str::to_owned))
}
