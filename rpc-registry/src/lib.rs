//! Resolves service names to URIs.
//!
//! A provider registers an [`Instance`] and holds the [`Lease`]; a consumer looks the service up,
//! or watches it. Where the registry is, and what it is made of, is said by a URI, so a program
//! moves from one machine to a cluster by changing a setting:
//!
//! | URI | back end |
//! | --- | --- |
//! | `file:rpc-demo`, `file:///srv/rpc-demo` | a folder on this machine, shared by its processes; see [below](#the-file-back-end) |
//! | `memory:`, `memory:name` | this process only |
//! | `zookeeper://host:port,host:port/root` | a ZooKeeper ensemble, with the feature `zookeeper`; see the module `zookeeper` |
//! | `etcd://host:port,host:port/prefix` | an etcd cluster, with the feature `etcd`; see the module `etcd` |
//! | `nameserver://host:port,host:port` | name servers, after `rpc_nameserver::register_scheme()` of the crate `rpc-nameserver` |
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
//! # When the registry fails
//!
//! Registrations are made again until that succeeds, and what was known stays in use; see
//! [`Resilient`], which all back ends but `memory:` share. Whoever wants to know asks the
//! [`Lease`] and the [`Snapshot`]:
//!
//! ```no_run
//! use rpc_registry::{Instance, LeaseState, RegistryError, Source};
//!
//! # async fn demo() -> Result<(), RegistryError> {
//! let registry = rpc_registry::connect("nameserver://10.0.0.1:9876,10.0.0.2:9876").await?;
//!
//! // provider
//! let lease = registry.register(Instance::new("HelloService", "tcp://10.0.0.7:9000")).await?;
//! let mut states = lease.states();
//! tokio::spawn(async move {
//!     while let Some(state) = states.changed().await {
//!         match state {
//!             LeaseState::Held { epoch } => println!("registered again, with epoch {epoch}"),
//!             LeaseState::Lost { cause } => println!("not registered: {cause}"),
//!             _ => {}
//!         }
//!     }
//! });
//!
//! // consumer
//! let mut watch = registry.watch("HelloService").await?;
//! loop {
//!     let now = watch.changed().await?;
//!     println!("{} instances; new are {:?}", now.instances.len(), now.change.added);
//!     match &now.source {
//!         Source::Registry => println!("the registry says so"),
//!         Source::Protected { kept } => println!("the registry does not list {kept:?} any more"),
//!         Source::Cache { .. } => println!("it said so {:?} ago, and is away", now.age()),
//!         _ => {}
//!     }
//! }
//! # }
//! ```
//!
//! It is in the log as well, with the target `rpc_registry`: at WARN what is lost, at INFO that it is
//! back.
//!
//! # The file back end
//!
//! `file:///absolute/folder` or `file:./relative/folder` names a folder on a local file system; the
//! path is percent-decoded. `file:name`, without a slash, names a folder of this user:
//! `$XDG_RUNTIME_DIR/rpc/name`, or `rpc-UID/name` in the folder for temporary files. A missing
//! folder is created. A tokio runtime with its timer enabled is required.
//!
//! - **Users.** The folder and everything in it belong to the user of the process or to root, and
//!   are closed to other users (0700, 0600). A file or folder that another user owns, may write or
//!   may replace is refused with an [`is_permission_denied`](RegistryError::is_permission_denied)
//!   error. Links in the folder are not followed. `?shared=group` shares the folder among the
//!   members of its group, who must trust each other completely. The rules are in
//!   `docs/registry.md`.
//! - **Liveness.** A provider is returned from the moment its registration returns until its lease
//!   ends or its process does, however it ends: the kernel tells at once. A process that stands still,
//!   such as one that is stopped (`SIGSTOP`), goes after its lease time, `?ttl_ms=` (1000 to 600000,
//!   default 10000), and registers again when it goes on. It is renewed at a third of that time on a
//!   thread of its own, so work that takes long is not taken for standing still. Each lease keeps one
//!   file open, each process one more.
//! - **Coming back.** A registration that others can't see any more, because its line, its lease file
//!   or the whole folder was deleted, is made again at the next renewal, with a higher epoch. One that
//!   was removed by [`unregister`](Registry::unregister) is not.
//! - **Files.** `registry.jsonl` holds a header and one JSON object per line, for people to read
//!   and, with care, to edit: values may be changed; a line that is added by hand has no process
//!   behind it and goes with a later write, one that is deleted comes back while its provider runs.
//!   It is only ever replaced as a whole, at most 16 MiB. `registry.lock`, `leases/`, `beats/`,
//!   `signs/` and `turns/` belong to the back end; do not delete them while a program uses the
//!   registry.
//! - **Waiting.** Lookups and watches do not wait for writers. Whatever writes waits at most
//!   `?lock_timeout_ms=` (1 to 600000, default 5000) for its turn, and fails with an
//!   [`is_timeout`](RegistryError::is_timeout) error that names the lock file and the last holder.
//!   Changes of the tasks of one process are written together, and processes write in order of
//!   arrival. A process that does not take its turn for half a second moves to the end of the
//!   queue.
//! - **Watching** is done through the operating system: registrations, departures and deaths are told
//!   within milliseconds (elsewhere than on Linux, deaths when it is looked for them). What gives no
//!   sign, such as an editor, is looked for every `?watch_interval_ms=` (10 to 60000, default 1000),
//!   and so is everything where the operating system refuses, which is logged once.
//! - **Protection.** Providers that died, left or were removed are believed to be gone at once. Of
//!   those whose lease times have lapsed, or whose lines were deleted although they live, many at
//!   once are kept for a while: see [`Protection`], and `?protect_percent=` and `?protect_ms=` in
//!   [`ResilientSettings::from_uri`].
//! - **Damage.** A line that can't be read makes lookups fail with an
//!   [`is_corrupt`](RegistryError::is_corrupt) error that names it; watches keep the last good list
//!   and say how old it is. The next registration keeps every line that can be read and leaves the
//!   original beside it as `registry.jsonl.damaged-<unix ms>`. A list of another format version is
//!   never touched ([`is_unsupported_format`](RegistryError::is_unsupported_format)).

#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub mod __fuzz;
mod back_end;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
mod clear_text;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
mod entries;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod file;
mod instance;
mod lease;
mod log_limit;
mod memory;
mod pace;
mod percent;
mod printable;
mod private_files;
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
pub use log_limit::LogLimit;
#[doc(hidden)]
pub use pace::rest_after;
pub use printable::Printable;
#[doc(hidden)]
pub use printable::{is_printable, printable};
pub use registry::{BoxFuture, Registry};
pub use resilient::{Protection, Resilient, ResilientSettings};
pub use schemes::{SchemeFactory, connect, register_scheme, supported_schemes};
pub use snapshot::{Change, Snapshot, Source};
#[doc(hidden)]
pub use tracing as __tracing;
pub use uri::{RegistryUri, file_uri};
pub use watch::{Watch, WatchSender};
