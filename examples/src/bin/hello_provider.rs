//! Provides `HelloService` until Ctrl-C.
//!
//! ```text
//! cargo run --bin hello-provider -- [--registry URI] [--listen URI]
//! ```

use anyhow::{Context, bail};

const USAGE: &str = "usage: hello-provider [--registry URI] [--listen URI]";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    let mut registry = rpc_examples::DEFAULT_REGISTRY.to_owned();
    // Any free port. Consumers get the address from the registry.
    let mut listen = "tcp://127.0.0.1:0".to_owned();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--registry" => registry = args.next().context(USAGE)?,
            "--listen" => listen = args.next().context(USAGE)?,
            _ => bail!("unknown argument {arg:?}\n{USAGE}"),
        }
    }
    rpc_examples::provide(&registry, &listen, tokio::signal::ctrl_c()).await
}
