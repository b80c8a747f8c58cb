//! The hello example: a contract, a provider of it and a consumer.
//!
//! This file is the whole program. The binaries `hello-provider`, `hello-consumer` and `quickstart`
//! only start it, in processes that share a registry.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

pub mod process;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Registry;
use rpc_runtime::{Server, rpc_service};
use tracing_subscriber::EnvFilter;

/// The default registry of the examples: a folder of this user on this machine.
pub const DEFAULT_REGISTRY: &str = "file:rpc-demo";

/// The contract, which provider and consumer share. The macro generates the stub
/// `HelloServiceClient` and the dispatcher `HelloServiceServer` from it.
#[rpc_service]
pub trait HelloService {
    /// Greets `name`.
    async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
}

/// The implementation of the provider: an ordinary type without network code.
pub struct Hello;

impl HelloService for Hello {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
        Ok(format!("Hello, {name}"))
    }
}

/// Connects to the registry at `uri`. The features in `examples/Cargo.toml` add kinds of
/// registries.
///
/// # Errors
/// The URI is invalid, or the registry cannot be used.
pub async fn registry(uri: &str) -> anyhow::Result<Arc<dyn Registry>> {
    #[cfg(feature = "nameserver")]
    {
        // Needed once per process. Repeated calls have no effect.
        let _ = rpc_nameserver::register_scheme();
    }
    Ok(rpc_registry::connect(uri).await?)
}

/// Provides [`Hello`] at `listen`, registered in `registry`, until `stop` completes.
///
/// # Errors
/// The registry or the address cannot be used.
pub async fn provide(registry: &str, listen: &str, stop: impl Future) -> anyhow::Result<()> {
    let server = Server::builder()
        .provide(HelloServiceServer::new(Hello))
        .registry(crate::registry(registry).await?)
        // Metadata can be any text. The consumer prints this process id.
        .metadata("pid", std::process::id().to_string())
        .bind(listen)
        .await?;
    // Consumers can find the provider now. With port 0, only the server knows the actual address.
    println!("serving HelloService at {}, registered in {registry}", server.local_uri());

    server.serve_until(stop).await?;
    println!("stopped: calls in progress are answered, the registration is removed");
    Ok(())
}

/// Finds a provider of [`HelloService`] in `registry` and calls it with `name`.
///
/// # Errors
/// The registry cannot be used, there is no provider, or the call fails.
pub async fn consume(registry: &str, name: &str) -> anyhow::Result<()> {
    let registry = crate::registry(registry).await?;
    // Only prints the content of the registry. `discover` does its own lookup.
    for provider in registry.lookup("HelloService").await? {
        let pid = provider.metadata().get("pid").map_or("unknown", String::as_str);
        println!("found HelloService at {}, process {pid}", provider.uri());
    }

    let hello = HelloServiceClient::discover(registry).await?;
    println!("{}", hello.hello(name.to_owned()).await?);
    Ok(())
}

/// Calls repeatedly, to show what happens when providers start and stop.
///
/// # Errors
/// The registry cannot be used. A failed call is printed, and the calls continue.
pub async fn consume_for_ever(registry: &str, name: &str, pause: Duration) -> anyhow::Result<()> {
    let registry = crate::registry(registry).await?;
    let hello = HelloServiceClient::discover(registry).await?;
    loop {
        match hello.hello(name.to_owned()).await {
            Ok(greeting) => println!("{greeting}"),
            Err(error) => println!("{error:?}"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Writes the log that `RUST_LOG` selects, such as `RUST_LOG=rpc_runtime=debug`, to standard error.
/// Without `RUST_LOG` there is none.
pub fn init_tracing() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        // Standard output is for the example itself.
        .with_writer(std::io::stderr)
        .init();
}
