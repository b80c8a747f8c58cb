//! A name server, until Ctrl-C.
//!
//! ```text
//! rpc-nameserver --listen tcp://127.0.0.1:9876 [--grace-ms 35000]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;
use std::time::Duration;

use rpc_nameserver::NameServer;
use tracing_subscriber::EnvFilter;

const USAGE: &str = "usage: rpc-nameserver [--listen URI] [--grace-ms N] [--max-bytes N]

  --listen URI     where to listen; default tcp://127.0.0.1:9876
  --grace-ms N     how long after its start it does not say that nobody provides a service;
                   default 35000
  --max-bytes N    what all registrations may take, roughly; default 268435456

There is no authentication: listen where only friends are.";

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let mut listen = "tcp://127.0.0.1:9876".to_owned();
    let mut builder = NameServer::builder();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if matches!(arg.as_str(), "--help" | "-h") {
            println!("{USAGE}");
            return Ok(());
        }
        let value = args.next();
        let value = || value.ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
        let number = |text: String| {
            text.parse::<u64>().map_err(|_| format!("{arg} {text:?} is not a whole number"))
        };
        match arg.as_str() {
            "--listen" => listen = value()?,
            "--grace-ms" => builder = builder.grace(Duration::from_millis(number(value()?)?)),
            "--max-bytes" => {
                let bytes = usize::try_from(number(value()?)?).unwrap_or(usize::MAX);
                builder = builder.max_bytes(bytes);
            }
            _ => return Err(format!("unknown argument {arg:?}\n{USAGE}")),
        }
    }
    let server = builder.bind(&listen).await.map_err(|error| error.to_string())?;
    println!("name server at {}", server.local_uri());
    server.serve_until(told_to_end()).await.map_err(|error| error.to_string())
}

/// Ready at Ctrl-C, or at the signal by which a system ends its services.
async fn told_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
