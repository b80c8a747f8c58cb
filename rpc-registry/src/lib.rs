//! Resolves service names to URIs.
//!
//! A provider registers an [`Instance`] and holds the [`Lease`]; a consumer looks the service up,
//! or watches it. Where the registry is, and what it is made of, is said by a URI, so a program
//! moves from one machine to a cluster by changing a setting:
//!
//! | URI | back end |
//! | --- | --- |
//! | `file:///tmp/rpc-demo` | a folder on this machine, shared by its processes; see [below](#the-file-back-end) |
//! | `memory:`, `memory:name` | this process only |
//! | others | added by [`register_scheme`] |
//!
//! ```
//! use rpc_registry::Instance;
//!
//! # async fn demo() -> Result<(), rpc_registry::RegistryError> {
//! let registry = rpc_registry::connect("memory:demo").await?;
//!
//! // provider
//! let lease = registry.register(Instance::new("HelloService", "tcp://127.0.0.1:9000")).await?;
//!
//! // consumer
//! let found = registry.lookup("HelloService").await?;
//! assert_eq!(found[0].uri(), "tcp://127.0.0.1:9000");
//!
//! let mut watch = registry.watch("HelloService").await?;
//! assert_eq!(watch.changed().await?.instances.len(), 1); // the present state, at once
//! lease.revoke().await?;
//! assert!(watch.changed().await?.instances.is_empty());
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
//! #     .block_on(demo()).unwrap();
//! ```

mod error;
mod file;
mod instance;
mod lease;
mod memory;
mod registry;
mod schemes;
mod suggest;
mod uri;
mod watch;

pub use error::RegistryError;
pub use instance::Instance;
pub use lease::{Lease, LeaseHandle};
pub use registry::{BoxFuture, Registry};
pub use schemes::{SchemeFactory, connect, register_scheme, supported_schemes};
pub use uri::RegistryUri;
pub use watch::{Snapshot, Watch, WatchSender};
