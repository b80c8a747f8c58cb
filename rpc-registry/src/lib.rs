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
//! | `zookeeper://host:port,host:port/root` | a ZooKeeper ensemble, with the feature `zookeeper`; see the module `zookeeper` |
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
//!
//! # The file back end
//!
//! `file:///absolute/folder` or `file:relative/folder` names a folder on a local file system,
//! shared by all processes that may read and write it; the path is percent-decoded. A missing one
//! is made, with the mode that the umask leaves of 0777. It needs a tokio runtime with its timer
//! enabled.
//!
//! - **Liveness.** A provider is returned from the moment its registration returns until its lease
//!   ends or its process does, however it ends: the kernel tells, no heartbeat is waited for. A
//!   process that is stopped (`SIGSTOP`) is alive. Each lease keeps one file open.
//! - **Files.** `registry.jsonl` holds a header and one JSON object per line, for people to read
//!   and, with care, to edit: values may be changed and lines deleted; a line that is added by hand
//!   has no process behind it and goes with the next write. It is only ever replaced as a whole, at
//!   most 16 MiB. `registry.lock` and `leases/` belong to the back end; don't delete them while
//!   anyone runs.
//! - **Waiting.** Lookups and watches do not wait for writers. Whatever writes waits at most
//!   `?lock_timeout_ms=` (1 to 600000, default 5000) for its turn, and fails with an
//!   [`is_timeout`](RegistryError::is_timeout) error that names the lock file and the last holder.
//! - **Watching.** A change is seen after at most `?watch_interval_ms=` (10 to 60000, default 200).
//!   While the list can't be read, a watch keeps the last good one and logs a warning.
//! - **Damage.** A line that can't be read makes lookups fail with an
//!   [`is_corrupt`](RegistryError::is_corrupt) error that names it. The next registration keeps
//!   every line that can be read and leaves the original beside it as
//!   `registry.jsonl.damaged-<unix ms>`. A list of another format version is never touched
//!   ([`is_unsupported_format`](RegistryError::is_unsupported_format)).

mod back_end;
mod error;
mod file;
mod instance;
mod lease;
mod memory;
mod registry;
mod resilient;
mod schemes;
mod snapshot;
mod suggest;
#[cfg(feature = "testing")]
pub mod testing;
mod uri;
mod watch;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use back_end::{Announcement, BackEnd, Claim, Feed, Session, Update};
pub use error::RegistryError;
pub use instance::Instance;
pub use lease::{Lease, LeaseHandle, LeaseState, LeaseStates};
pub use registry::{BoxFuture, Registry};
pub use resilient::{Protection, Resilient, ResilientSettings};
pub use schemes::{SchemeFactory, connect, register_scheme, supported_schemes};
pub use snapshot::{Change, Snapshot, Source};
pub use uri::{RegistryUri, file_uri};
pub use watch::{Watch, WatchSender};
