//! Service registries: provider instances by service name.
//!
//! A provider registers an [`Instance`] and holds the [`Lease`]. A consumer looks up or watches a
//! service. A URI names the registry, so a program moves from one machine to a cluster by a change
//! of a setting:
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
//! assert_eq!(watch.changed().await?.instances.len(), 1); // the current list, at once
//! lease.revoke().await?;
//! assert!(watch.changed().await?.instances.is_empty());
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
//! #     .block_on(demo()).unwrap();
//! ```
//!
//! A tokio runtime with its timer enabled is required.
//!
//! # Parameters
//!
//! All back ends use the same names in the query of the URI. A duration has a unit: `500ms`, `10s`,
//! `5m`, `1h30m`. An unknown parameter, a parameter of an earlier version or a value out of range
//! is an [`is_invalid_uri`](RegistryError::is_invalid_uri) error of [`connect`].
//!
//! | parameter | meaning | back ends |
//! | --- | --- | --- |
//! | `lease=` | time after which a provider that hangs or is cut off is removed | all but `memory:` |
//! | `request_timeout=` | timeout of a request, including connecting and failover | `etcd:`, `zookeeper:`, `nameserver:` |
//! | `renew_interval=` | interval between renewals | `nameserver:` |
//! | `lock_timeout=` | timeout of a write for the registry lock | `file:` |
//! | `poll_interval=` | interval of polling for changes that send no signal | `file:` |
//! | `protect=`, `protect_percent=`, `protect_max=` | the [`Protection`] against mass expiry | all but `memory:` |
//! | `cache=`, `app=` | the cache file; see [`ResilientSettings::from_uri`] | `etcd:`, `zookeeper:`, `nameserver:` |
//!
//! # When the registry fails
//!
//! Registrations are made again until that succeeds, and the last known lists stay in use; see
//! [`Resilient`], the layer that all back ends share. The [`Lease`] and the [`Snapshot`] report the
//! state:
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
//!         Source::Registry => println!("current data"),
//!         Source::Protected { kept } => println!("the registry no longer lists {kept:?}"),
//!         Source::Cache { .. } => println!("the registry is away; data of {:?} ago", now.age()),
//!         _ => {}
//!     }
//! }
//! # }
//! ```
//!
//! The log has the same events, with the target `rpc_registry`: a loss at WARN, the recovery at
//! INFO.
//!
//! # The file back end
//!
//! `file:///absolute/folder` or `file:./relative/folder` names a folder on a local file system; the
//! path is percent-decoded. `file:name`, without a slash, names a folder of this user:
//! `$XDG_RUNTIME_DIR/rpc/name`, or `rpc-UID/name` in the folder for temporary files. A missing
//! folder is created.
//!
//! - **Users.** The folder and its content belong to the user of the process or to root, and are
//!   closed to other users (0700, 0600). A file or folder that another user owns, can write or can
//!   replace is refused with an [`is_permission_denied`](RegistryError::is_permission_denied)
//!   error. Links in the folder are not followed. `?shared=group` shares the folder among the
//!   members of its group, who must trust each other completely. The rules are in
//!   `docs/registry.md`.
//! - **Liveness.** A provider is listed from the end of its registration until its lease or its
//!   process ends; the kernel reports the end of a process immediately. A process that does not
//!   run, for example one that was stopped (`SIGSTOP`), is removed after its lease, `?lease=` (1s
//!   to 10m, default 10s), and registers again when it continues. A dedicated thread renews the
//!   lease at a third of that time, so long computations do not let it expire. Each lease keeps one
//!   file open, each process one more.
//! - **Recovery.** A registration whose line, lease file or folder was deleted is made again at the
//!   next renewal, with a higher epoch. A registration that was removed by
//!   [`unregister`](Registry::unregister) is not.
//! - **Files.** `registry.jsonl` holds a header and one JSON object per line. It can be read and,
//!   with care, edited: values may be changed; an added line has no process and is removed by a
//!   later write; a deleted line comes back while its provider runs. It is only ever replaced as a
//!   whole, at most 16 MiB. `registry.lock`, `leases/`, `beats/`, `signs/` and `turns/` belong to
//!   the back end; do not delete them while a program uses the registry.
//! - **Waiting.** Lookups and watches do not wait for writers. A write waits at most
//!   `?lock_timeout=` (1ms to 10m, default 5s) for the registry lock, and fails with an
//!   [`is_timeout`](RegistryError::is_timeout) error that names the lock file and the last holder.
//!   Changes of the tasks of one process are written together, and processes write in the order of
//!   their arrival. A process that leaves the free lock unused for half a second moves to the end
//!   of the queue.
//! - **Watching** uses the operating system: registrations, departures and ended processes are
//!   reported within milliseconds (on systems other than Linux, ended processes are found by
//!   polling). Changes without a signal, such as those of an editor, are found by polling every
//!   `?poll_interval=` (10ms to 1m, default 1s), and so is everything if the operating system does
//!   not support watching, which is logged once.
//! - **Protection.** Providers that died, left or were removed disappear at once. If many leases
//!   expire at the same time, or many lines are deleted although their providers live, they are
//!   kept for a while: see [`Protection`].
//! - **Damage.** A line that cannot be read makes lookups fail with an
//!   [`is_corrupt`](RegistryError::is_corrupt) error that names it; watches keep the last good list
//!   and report its age. The next registration keeps every readable line and leaves the original
//!   beside it as `registry.jsonl.damaged-<unix ms>`. A list of another format version is never
//!   changed ([`is_unsupported_format`](RegistryError::is_unsupported_format)).

#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub mod __fuzz;
mod back_end;
mod back_off;
mod backends;
mod clock;
mod error;
mod future;
mod instance;
mod lease;
mod log_limit;
mod percent;
mod printable;
mod private_files;
mod random;
mod registry;
mod resilience;
mod schemes;
mod snapshot;
mod suggest;
#[doc(hidden)]
pub mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod update_pause;
mod uri;
mod watch;

pub use back_end::{Announcement, BackEnd, Claim, Feed, Session, Update};
#[doc(hidden)]
pub use back_off::BackOff;
#[cfg(feature = "etcd")]
pub use backends::etcd;
#[cfg(feature = "zookeeper")]
pub use backends::zookeeper;
#[doc(hidden)]
pub use clock::unix_ms;
pub use error::RegistryError;
pub use future::BoxFuture;
pub use instance::Instance;
pub use lease::{Lease, LeaseState, LeaseStates};
pub use log_limit::LogLimit;
pub use printable::Printable;
#[doc(hidden)]
pub use printable::{is_printable, printable};
#[doc(hidden)]
pub use random::{random_index, random_u64};
pub use registry::Registry;
pub use resilience::{Protection, Resilient, ResilientSettings};
pub use schemes::{SchemeFactory, connect, register_scheme, supported_schemes};
pub use snapshot::{Change, Snapshot, Source};
#[doc(hidden)]
pub use tracing as __tracing;
#[doc(hidden)]
pub use update_pause::rest_after;
pub use uri::{RegistryUri, file_uri};
pub use watch::Watch;
#[doc(hidden)]
pub use watch::WatchSender;
