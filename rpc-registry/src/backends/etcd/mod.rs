//! A registry in an [etcd](https://etcd.io) cluster, version 3.4 or newer; feature `etcd`.
//!
//! `etcd://[user:password@]host:port,host:port/prefix?lease=10s` names one or more servers of the
//! cluster. One is used until it fails, then the next. The default port is 2379, the default prefix
//! `/rpc-registry`.
//!
//! | parameter | value |
//! | --- | --- |
//! | `lease=` | time after which a provider that died is removed, 2s to 1day, default 10s; in whole seconds, and etcd may grant more |
//! | `request_timeout=` | timeout of a request, including connecting and failover to other servers, 1ms to 10m, default 3s |
//! | `ca=` | file with the authority of the servers' certificates, PEM; TLS is used if it is given, and only then |
//! | `insecure=1` | allows user and password without TLS to servers on other machines; everyone on the path can read them. Refused otherwise |
//! | `cert=`, `key=` | files with a certificate and its private key, PEM, for servers that ask for one |
//!
//! and those of [`ResilientSettings::from_uri`]. No request is sent before the first operation, so
//! a program can start without etcd, from its cache.
//!
//! # Keys
//!
//! - `<prefix>/<service>/<id>` contains an instance as JSON. It is attached to a lease of its own,
//!   which a task renews at a third of its time.
//! - `<prefix>/<service>/<id>/departed` is the note of an instance that left in order or was
//!   removed by an administrator. It replaces the entry in one transaction, and expires after the
//!   lease. An entry that disappears without a note has expired, which may be the fault of etcd.
//!
//! Service and id are percent-encoded, except for letters, digits, `-`, `_`, `.` and `~`. Entries
//! that are not valid instances are skipped, with a warning in the log. A role needs to read and
//! write the keys that begin with `<prefix>/`.
//!
//! # Guarantees
//!
//! - Lookups are linearizable: they include every registration that has returned. A server without
//!   a connection to a majority does not respond to them.
//! - An entry is written only if there is none, or in place of an entry with an older epoch, and
//!   removed only by its writer or by an administrator. The epoch of a registration is etcd's
//!   revision times 2^20, and each attempt to register again adds one. So a provider that took over
//!   an id is not displaced by its predecessor.
//! - A provider that died is removed after its lease, or after twice that if etcd elects a leader
//!   during that time: a new leader extends all leases once.
//! - A dead connection is detected after nine seconds.
//!
//! ```no_run
//! # async fn demo() -> Result<(), rpc_registry::RegistryError> {
//! let registry = rpc_registry::connect("etcd://10.0.0.1:2379,10.0.0.2:2379/shop?lease=10s").await?;
//! # Ok(()) }
//! ```

mod client;
mod feed;
#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod keys;
mod lease;
mod messages;
mod request_error;
mod server;
mod service_entries;
mod session;
mod settings;
mod watch_messages;

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use self::client::{Client, Method};
use self::feed::EtcdFeed;
use self::keys::{Keys, ParsedKey, end_of};
use self::messages::{RangeRequest, RangeResponse};
use self::session::Announcer;
use self::settings::Settings;
use crate::back_end::{Announcement, BackEnd, Claim, Feed};
use crate::{BoxFuture, Instance, RegistryError, RegistryUri, Resilient, ResilientSettings};

/// The back end of the scheme `etcd`; see [`connect`](crate::connect).
///
/// Its tasks run in the tokio runtime in which it was made.
pub struct EtcdBackEnd {
    client: Arc<Client>,
    keys: Keys,
    ttl: i64,
    runtime: Handle,
}

impl EtcdBackEnd {
    /// Reads the URI and the files that it names. Sends no request.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`; `is_unavailable` outside of a tokio runtime.
    pub fn new(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let settings = Settings::from_uri(uri)?;
        let runtime = Handle::try_current().map_err(|error| {
            RegistryError::unavailable("a registry in etcd needs a tokio runtime")
                .with_registry(uri.as_str())
                .with_source(error)
        })?;
        let client = Arc::new(Client::new(&settings, runtime.clone()));
        Ok(Self { client, keys: settings.keys, ttl: settings.ttl, runtime })
    }
}

/// The registry that an `etcd://` URI names.
pub(crate) async fn connect(uri: RegistryUri) -> Result<Resilient<EtcdBackEnd>, RegistryError> {
    Resilient::new(EtcdBackEnd::new(&uri)?, ResilientSettings::from_uri(&uri)?).await
}

impl BackEnd for EtcdBackEnd {
    fn uri(&self) -> &str {
        self.client.uri()
    }

    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>> {
        let Self { client, keys, runtime, ttl } = self;
        let announcer = Announcer { client, keys, runtime, ttl: *ttl };
        Box::pin(async move { announcer.announce(instance, claim).await })
    }

    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(async move {
            let (list, _) =
                feed::read(&self.client, &self.keys, &self.keys.service(service)).await?;
            Ok(list.into_instances())
        })
    }

    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(async move {
            let (client, keys) = (Arc::clone(&self.client), self.keys.clone());
            let feed = EtcdFeed::open(client, keys, self.keys.service(service)).await?;
            Ok(Box::new(feed) as _)
        })
    }

    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        let place = (service, instance_id);
        Box::pin(session::remove(&self.client, &self.keys, place, self.ttl))
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move {
            let key = self.keys.all();
            let range_end = end_of(&key);
            let request = RangeRequest { key, range_end, keys_only: true };
            let found: RangeResponse = self.client.call(Method::RANGE, request).await?;
            let mut services: Vec<_> = found
                .kvs
                .iter()
                .filter_map(|kv| match self.keys.place(&kv.key)? {
                    ParsedKey::Entry { service, .. } => Some(service),
                    ParsedKey::Note { .. } => None,
                })
                .collect();
            // The keys are in order.
            services.dedup();
            Ok(services)
        })
    }
}

impl fmt::Debug for EtcdBackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBackEnd").field("uri", &self.uri()).finish_non_exhaustive()
    }
}
