//! Name servers in the manner of RocketMQ's: a registry of any number of servers, each with a table
//! of its own in memory, which know nothing of each other. One that is left is enough.
//!
//! ```text
//! rpc-nameserver --listen tcp://127.0.0.1:9876
//! ```
//!
//! Programs add the scheme once, and name all servers:
//!
//! ```no_run
//! # async fn demo() -> Result<(), rpc_registry::RegistryError> {
//! rpc_nameserver::register_scheme()?;
//! let registry = rpc_registry::connect("nameserver://10.0.0.1:9876,10.0.0.2:9876").await?;
//! # Ok(()) }
//! ```
//!
//! # The URI
//!
//! `nameserver://host:port,host:port`, one to 32 servers; a missing port is 9876, RocketMQ's.
//!
//! | parameter | value |
//! | --- | --- |
//! | `interval_ms=` | between renewals; taken as 1,000 if less and 60,000 if more; default 30,000 |
//! | `expiry_ms=` | what is not renewed for so long is removed; 3,000 to 3,600,000, three intervals at least; default 120,000 |
//! | `timeout_ms=` | for the answer of each server, connecting included; 100 to 60,000, default 3,000 |
//! | | and those of [`ResilientSettings::from_uri`](rpc_registry::ResilientSettings::from_uri) |
//!
//! # What holds
//!
//! - **Providers** register with all servers at the same time, and stay connected to each. A
//!   registration succeeds when one server has taken it and the others have answered, failed, or
//!   were known to be away; those are tried for ever, and are told all when they are back. It is lost
//!   when no server has confirmed it for its expiry.
//! - **A closed connection** removes what came over it at once. One that is cut without a sign is
//!   found by heartbeats within 30 s. A provider that is stopped lapses after its expiry.
//! - **Renewals** are a number, the version of the provider's data. A server that has another one,
//!   since it was started anew, say, is told all.
//! - **Consumers** ask one server, which they choose at random, and stay with it until it fails. When
//!   they have moved on, the first list of the next server is taken with the care that is due after a
//!   fault (see [`Protection`](rpc_registry::Protection)), since that server may know less. When all
//!   are gone they go on with what they know.
//! - **Following** takes no polling: a server tells a list when something has changed, at most every
//!   50 ms, and who has left in order.
//! - **A fresh server** does not say that nobody provides a service, until its time of grace is over
//!   ([`NameServerBuilder::grace`]): it says that it is starting, and another one is asked. What is
//!   registered with it meanwhile is listed, as RocketMQ does; who knew more has had a fault, or has
//!   moved on, and takes such a list with care.
//! - **Ids** belong to whoever has them. A provider that comes back with its id has a newer epoch than
//!   it had before (the time, in milliseconds), so what is left of its former life can't harm it.
//!
//! Two servers may say different things for a while, and so may two consumers see. There is no
//! authentication: whoever can connect can register and remove. Listen where only friends are.

mod client;
mod contract;
mod server;

pub use client::{NameServers, NameServersSettings};
pub use contract::{
    Change, Listing, NAME_SERVICE_DESCRIPTOR, NameError, NameService, NameServiceClient,
    NameServiceServer, Refusal, Why, pack, unpack,
};
pub use server::{NameServer, NameServerBuilder};

use std::sync::Arc;

use rpc_registry::{BoxFuture, Registry, RegistryError, RegistryUri, Resilient, ResilientSettings};

/// Adds the scheme `nameserver` to [`rpc_registry::connect`], for the whole process.
///
/// # Errors
///
/// `is_already_exists` when it was added before.
pub fn register_scheme() -> Result<(), RegistryError> {
    rpc_registry::register_scheme("nameserver", connect)
}

fn connect(uri: RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
    Box::pin(async move {
        let settings = NameServersSettings::from_uri(&uri)?;
        let resilient = ResilientSettings::from_uri(&uri)?;
        let registry = Resilient::new(NameServers::new(settings).await?, resilient).await?;
        Ok(Arc::new(registry) as _)
    })
}
