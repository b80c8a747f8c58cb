//! Runs a name server until it receives SIGINT or SIGTERM.
//!
//! ```text
//! rpc-nameserver --listen tcp://127.0.0.1:9876
//! rpc-nameserver --listen tls://0.0.0.0:9876 --cert names.pem --key names.key \
//!     --client-ca ca.pem --policy policy.toml
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;

use humantime::parse_duration;
use rpc_nameserver::{NameServer, NameServerBuilder, Quota, Reload};
use tracing_subscriber::EnvFilter;

const USAGE: &str = "usage: rpc-nameserver [OPTIONS]

  --listen URI       address to listen on; default tcp://127.0.0.1:9876
  --cert FILE        server certificate and its issuers, PEM; for tls://host:port
  --key FILE         private key of the certificate, PEM
  --client-ca FILE   require client certificates of these authorities, PEM
  --policy FILE      rights of clients, TOML; read again when it changes
  --insecure         listen on network addresses without authentication of clients
  --grace TIME       time after the start in which the server does not answer that a service
                     has no providers, such as 35s; default 35s
  --max-bytes N      maximum memory of all registrations, estimated, in bytes;
                     default 268435456
  --client-bytes N   the same for one client, which is an identity, or an address without
                     authentication; default 67108864
  --client-instances N
                     maximum instances of one client; default 20000

SIGHUP reloads policy, certificate, key and authorities.";

#[tokio::main]
async fn main() -> ExitCode {
    // Without RUST_LOG, WARN and above: refusals, and policies that are not applied.
    let filter = EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let Some((listen, builder)) = arguments()? else {
        println!("{USAGE}");
        return Ok(());
    };
    let server = builder.bind(&listen).await.map_err(|error| error.to_string())?;
    println!("name server at {}", server.local_uri());
    let _reloading = tokio::spawn(reload_at_hang_up(server.reload()));
    server.serve_until(terminated()).await.map_err(|error| error.to_string())
}

/// The address to listen on and the settings; `None` if help is requested.
fn arguments() -> Result<Option<(String, NameServerBuilder)>, String> {
    let mut listen = "tcp://127.0.0.1:9876".to_owned();
    let mut builder = NameServer::builder();
    let mut quota = Quota::default();
    let (mut cert, mut key, mut client_ca) = (None, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--insecure" => {
                builder = builder.insecure();
                continue;
            }
            _ => {}
        }
        let value = args.next();
        let value = || value.ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
        let number = |text: String| {
            text.parse::<u64>().map_err(|_| format!("{arg} {text:?} is not a whole number"))
        };
        let duration = |text: String| {
            parse_duration(&text)
                .map_err(|_| format!("{arg} {text:?} is not a duration, such as 35s"))
        };
        let size = |text| number(text).map(|it| usize::try_from(it).unwrap_or(usize::MAX));
        match arg.as_str() {
            "--listen" => listen = value()?,
            "--cert" => cert = Some(value()?),
            "--key" => key = Some(value()?),
            "--client-ca" => client_ca = Some(value()?),
            "--policy" => builder = builder.policy_file(value()?),
            "--grace" => builder = builder.grace(duration(value()?)?),
            "--grace-ms" => {
                return Err("--grace-ms is called --grace now: write --grace 35s".into());
            }
            "--max-bytes" => builder = builder.max_bytes(size(value()?)?),
            "--client-bytes" => quota.bytes = size(value()?)?,
            "--client-instances" => quota.instances = size(value()?)?,
            _ => return Err(format!("unknown argument {arg:?}\n{USAGE}")),
        }
    }
    let builder = match (cert, key) {
        (Some(cert), Some(key)) => with_tls(builder, &cert, &key, client_ca.as_deref())?,
        (None, None) if client_ca.is_none() => builder,
        _ => return Err("--cert and --key must be given together, --client-ca with both".into()),
    };
    Ok(Some((listen, builder.quota(quota))))
}

#[cfg(feature = "tls")]
fn with_tls(
    builder: NameServerBuilder,
    cert: &str,
    key: &str,
    client_ca: Option<&str>,
) -> Result<NameServerBuilder, String> {
    let tls = rpc_runtime::ServerTls::from_pem_files(cert, key).map_err(|it| it.to_string())?;
    let tls = match client_ca {
        Some(path) => tls.client_roots_pem_file(path).map_err(|error| error.to_string())?,
        None => tls,
    };
    Ok(builder.tls(tls))
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    _: NameServerBuilder,
    _: &str,
    _: &str,
    _: Option<&str>,
) -> Result<NameServerBuilder, String> {
    Err("this program was built without the feature tls".to_owned())
}

/// Reads the files again at each SIGHUP.
async fn reload_at_hang_up(reload: Reload) {
    #[cfg(unix)]
    if let Ok(mut hang_up) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
    {
        while hang_up.recv().await.is_some() {
            match reload.now() {
                Ok(()) => tracing::info!("the files were read again"),
                Err(error) => {
                    tracing::error!(%error, "the files are not applied; what is invalid stays as it was")
                }
            }
        }
    }
    #[cfg(not(unix))]
    drop(reload);
}

/// Completes at SIGINT, or at SIGTERM, by which a system ends its services.
async fn terminated() {
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
