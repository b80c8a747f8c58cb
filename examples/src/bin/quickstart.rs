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

/// The line of `HelloService` in the registry's file.
fn announcement(list: &Path) -> anyhow::Result<Option<String>> {
    let lines =
        std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(lines.lines().find(|line| line.contains("\"HelloService\"")).map(str::to_owned))
}
