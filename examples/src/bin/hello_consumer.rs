//! Finds a provider of `HelloService` and calls it.
//!
//! ```text
//! cargo run --bin hello-consumer -- [--registry URI] [--repeat MILLISECONDS] [NAME]
//! ```

use std::time::Duration;

use anyhow::{Context, bail};

const USAGE: &str = "usage: hello-consumer [--registry URI] [--repeat MILLISECONDS] [NAME]";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    let mut registry = rpc_examples::DEFAULT_REGISTRY.to_owned();
    let mut name = None;
    let mut repeat = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--registry" => registry = args.next().context(USAGE)?,
            "--repeat" => {
                let milliseconds = args.next().context(USAGE)?.parse().context(USAGE)?;
                repeat = Some(Duration::from_millis(milliseconds));
            }
            _ if name.is_some() || arg.starts_with('-') => {
                bail!("unknown argument {arg:?}\n{USAGE}")
            }
            _ => name = Some(arg),
        }
    }
    let name = name.as_deref().unwrap_or("world");
    match repeat {
        None => rpc_examples::consume(&registry, name).await,
        Some(pause) => rpc_examples::consume_for_ever(&registry, name, pause).await,
    }
}
