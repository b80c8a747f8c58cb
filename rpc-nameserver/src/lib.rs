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
//! | `interval_ms=` | interval between renewals; less than 1,000 counts as 1,000, more than 60,000 as 60,000; default 30,000 |
//! | `expiry_ms=` | registrations that are not renewed for this long are removed; 3,000 to 3,600,000, at least three intervals; default 120,000 |
//! | `timeout_ms=` | timeout for the response of each server, connecting included; 100 to 60,000, default 3,000 |
//! | `ca=` | a PEM file with the authorities of the servers, reloaded every minute. With it, only TLS is used |
//! | `cert=`, `key=` | PEM files of the client's certificate and key, reloaded every minute; require `ca=` |
//! | `server_name=` | the name in the servers' certificates; default: the host of each server; requires `ca=` |
//! | `token_file=` | a file with a token that authenticates the client; requires `ca=`, unless the servers are on this machine |
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
//! - **Ids** belong to the provider that registered them. It creates a [`Secret`] for each
//!   registration. Only the holder of the secret can replace the registration, with a newer epoch,
//!   or remove it. A restarted provider has a new secret and finds its id free, since the
//!   registrations of a closed connection are removed.
//! - **Secrets and sessions** are different at each server, so a malicious server cannot use them at
//!   another one.
//! - **Epochs** begin with the time in milliseconds, so a restarted provider has a newer epoch than
//!   what is left of its former life. An epoch more than a day ahead of the server's clock is
//!   refused.
//!
//! Two servers may have different lists for a while, and so may two consumers.
//!
//! # Who may do what
//!
//! By default a server listens on this machine only. Every client there may register and read
//! everything, within a [`Quota`] for each client, and change its own registrations. To listen on a
//! network, a server must authenticate its clients, or be started with `--insecure`:
//!
//! ```text
//! rpc-nameserver --listen tls://0.0.0.0:9876 --cert names.pem --key names.key \
//!     --client-ca clients-ca.pem --policy policy.toml
//! ```
//!
//! Clients authenticate by certificates (`--client-ca`), or by tokens that they send over TLS
//! (`--policy` alone). A policy gives rights to identities. It is read again when it changes or at
//! SIGHUP; an invalid policy is not applied. Without a policy, every client with a certificate may
//! register and read everything.
//!
//! ```toml
//! # An identity is authenticated by any one of uri, dns and token_sha256.
//! [[identity]]
//! name = "orders"                          # for messages and the audit log
//! uri = ["spiffe://example/orders/*"]      # URIs of the certificate
//! dns = ["orders.example"]                 # DNS names of the certificate
//! token_sha256 = []                        # of tokens, in hexadecimal: printf %s TOKEN | sha256sum
//! register = ["Orders", "orders.*"]        # services; * stands for any text
//! remove = []                              # registrations of other clients
//! read = ["*"]
//! quota = { instances = 100, bytes = 1000000 }   # also services, sessions, follows
//!
//! # Clients without authentication. Without this table they have no rights.
//! [anonymous]
//! read = ["public.*"]
//! ```
//!
//! Create tokens of 128 random bits or more, such as with `openssl rand -hex 32`: the file contains
//! plain hashes, which do not protect a token that can be guessed. Two certificates that match one
//! pattern are two clients: neither can change the registrations of the other.
//!
//! Each change and each refusal is an event with the target `rpc_nameserver::audit`. It has the
//! action, its object, the identity and the peer.
//!
//! # Earlier versions
//!
//! Providers of earlier versions send no secret. Their registrations can be replaced only by their
//! own session, or by the same authenticated identity. They are removed with the connection, as
//! before. Servers of earlier versions ignore secrets.

mod client;
mod contract;
mod pace;
mod secret;
mod server;

pub use client::{NameServers, NameServersSettings};
pub use contract::{
    Change, Listing, NAME_SERVICE_DESCRIPTOR, NameError, NameService, NameServiceClient,
    NameServiceServer, Refusal, Why, pack, unpack,
};
pub use secret::Secret;
pub use server::{NameServer, NameServerBuilder, Quota, Reload};

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
