//! The hello example: a contract, a provider of it and a consumer.
//!
//! This page is the whole program. The binaries `hello-provider`, `hello-consumer` and `quickstart`
//! only start it, in processes that share nothing but a registry.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

pub mod process;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Registry;
use rpc_runtime::{Server, rpc_service};
use tracing_subscriber::EnvFilter;

/// Default registry of the examples: a folder of this user on this machine.
pub const DEFAULT_REGISTRY: &str = "file:rpc-demo";

/// The contract. From it the macro makes the stub, `HelloServiceClient`, and the dispatcher,
/// `HelloServiceServer`; provider and consumer share nothing else.
#[rpc_service]
pub trait HelloService {
    /// Greets `name`.
    async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
}

/// What the provider provides. It is an ordinary object: nothing in it knows of a network.
pub struct Hello;

impl HelloService for Hello {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
        Ok(format!("Hello, {name}"))
    }
}

/// Connects to the registry at `uri`, of any kind that this build knows: see the features in
/// `examples/Cargo.toml`.
///
/// # Errors
/// The URI is invalid, or the registry cannot be used.
pub async fn registry(uri: &str) -> anyhow::Result<Arc<dyn Registry>> {
    #[cfg(feature = "nameserver")]
    {
        // Once in a process; a second time does no harm.
        let _ = rpc_nameserver::register_scheme();
    }
    Ok(rpc_registry::connect(uri).await?)
}

/// Provides [`Hello`] at `listen`, announced in `registry`, until `stop` is ready.
///
/// # Errors
/// The registry or the address cannot be used.
pub async fn provide(registry: &str, listen: &str, stop: impl Future) -> anyhow::Result<()> {
    let server = Server::builder()
        .provide(HelloServiceServer::new(Hello))
        .registry(crate::registry(registry).await?)
        // Any text may be announced along; here, so that the consumer can name the process.
        .metadata("pid", std::process::id().to_string())
        .bind(listen)
        .await?;
    // A consumer finds the provider from here on. With port 0 only the server knows the address.
    println!("serving HelloService at {}, announced in {registry}", server.local_uri());

    server.serve_until(stop).await?;
    println!("stopped: calls in work are answered, the announcement is taken back");
    Ok(())
}

/// Finds a provider of [`HelloService`] in `registry` and has it greet `name`.
///
/// # Errors
/// The registry cannot be used, nobody provides the service, or the call fails.
pub async fn consume(registry: &str, name: &str) -> anyhow::Result<()> {
    let registry = crate::registry(registry).await?;
    // Only to show what is in the registry: `discover` looks by itself.
    for provider in registry.lookup("HelloService").await? {
        let pid = provider.metadata().get("pid").map_or("unknown", String::as_str);
        println!("found HelloService at {}, process {pid}", provider.uri());
    }

    let hello = HelloServiceClient::discover(registry).await?;
    println!("{}", hello.hello(name.to_owned()).await?);
    Ok(())
}

/// Greets again and again, to see what happens when providers come and go.
///
/// # Errors
/// The registry cannot be used. A call that fails is shown, and the next one made.
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

/// Lets people look inside: `RUST_LOG=rpc_runtime=debug`, say. Silent without `RUST_LOG`.
pub fn init_tracing() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        // Standard output belongs to what the example has to say.
        .with_writer(std::io::stderr)
        .init();
}
