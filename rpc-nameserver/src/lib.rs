//! Name servers in the manner of RocketMQ: a registry of any number of independent servers. Each
//! keeps a table of registrations in memory, and no server knows of the others. One running server
//! is enough.
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
//! `nameserver://host:port,host:port`, one to 32 servers. The default port is 9876, as for
//! RocketMQ.
//!
//! | parameter | value |
//! | --- | --- |
//! | `renew_interval=` | interval between renewals; 1s to 1m, default 30s |
//! | `lease=` | time after which a registration that is not renewed is removed; 3s to 1h, at least three intervals, default 2m |
//! | `request_timeout=` | timeout for the response of each server, connecting included; 100ms to 1m, default 3s |
//! | `ca=` | a PEM file with the authorities of the servers, reloaded every minute. With it, only TLS is used |
//! | `cert=`, `key=` | PEM files of the client's certificate and key, reloaded every minute; require `ca=` |
//! | `server_name=` | the name in the servers' certificates; default: the host of each server; requires `ca=` |
//! | `token_file=` | a file with a token that authenticates the client; requires `ca=`, unless the servers are on this machine |
//! | | and those of [`ResilientSettings::from_uri`](rpc_registry::ResilientSettings::from_uri) |
//!
//! # Guarantees
//!
//! - **Providers** register with all servers at the same time, and stay connected to each. A
//!   registration succeeds when one server has accepted it and each other server has responded,
//!   failed, or was already known to be away. Servers that are away are retried without end, and
//!   receive all registrations when they are back. A registration is lost when no server has
//!   confirmed it for its lease.
//! - **A closed connection** ends the registrations that were made over it. A connection that is
//!   cut without notice is detected by heartbeats within 30 s. A provider that is stopped expires
//!   after its lease.
//! - **A renewal** is one number, the version of the provider's data. A server with another
//!   version, for example after a restart, receives all registrations again.
//! - **Consumers** query one server, chosen at random, until it fails. After a failover, the first
//!   list of the next server is treated like a list after a fault (see
//!   [`Protection`](rpc_registry::Protection)), since that server may have fewer registrations. If
//!   all servers are away, the last known lists stay in use.
//! - **Following** uses no polling: a server sends a list when it has changed, at most every 50 ms,
//!   with the ids of the providers that left in order.
//! - **A restarted server** does not answer that a service has no providers until its grace period
//!   is over ([`NameServerBuilder::grace`]): it answers that it is starting, and the client asks
//!   another server. Services with registrations are listed during that time, as in RocketMQ;
//!   clients with an older list had a fault or a failover, so protection applies.
//! - **Ids** belong to the provider that registered them. The provider creates a [`Secret`] for
//!   each registration. Only the holder of the secret can replace the registration, with a newer
//!   epoch, or remove it. A restarted provider has a new secret and finds its id free, since the
//!   registrations of a closed connection are removed.
//! - **Secrets and sessions** are different at each server, so a malicious server cannot use them
//!   at another one.
//! - **Epochs** begin with the time in milliseconds, so a restarted provider has a newer epoch than
//!   its earlier registrations. An epoch more than a day ahead of the server's clock is refused.
//!
//! Two servers may have different lists for a while, and so may two consumers.
//!
//! # Who may do what
//!
//! By default a server listens on this machine only. There every client may register and read all
//! services, within its [`Quota`], and change its own registrations. To listen on a network, a
//! server must authenticate its clients, or be started with `--insecure`:
//!
//! ```text
//! rpc-nameserver --listen tls://0.0.0.0:9876 --cert names.pem --key names.key \
//!     --client-ca clients-ca.pem --policy policy.toml
//! ```
//!
//! Clients authenticate by certificates (`--client-ca`), or by tokens that they send over TLS
//! (`--policy` alone). A policy gives rights to identities. It is reloaded when it changes or at
//! SIGHUP; an invalid policy is not applied. Without a policy, every client with a certificate may
//! register and read all services.
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
//! own session or by the same authenticated identity, and are removed with the connection. Servers
//! of earlier versions ignore secrets.

mod address;
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
