//! A registration in etcd: an entry with a lease of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::client::{Client, Method};
use super::keys::Keys;
use super::lease::{self, GrantedLease};
use super::messages::{Compare, KeyValue, RequestOp, TxnRequest, TxnResponse};
use crate::back_end::{Announcement, Claim, Session};
use crate::{BoxFuture, Instance, RegistryError, limited};

/// The first epoch of a registration is etcd's revision times this number, which leaves room for
/// the attempts to register again. So a provider that takes over an id after the lease has ended
/// has a newer epoch than its predecessor ever reaches.
const ATTEMPTS: u64 = 1 << 20;
/// Maximum retries after concurrent changes of an entry.
const MAX_ROUNDS: usize = 8;
/// Pause between two attempts to withdraw an entry while etcd is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Implements [`BackEnd::announce`](crate::BackEnd::announce).
pub(super) struct Announcer<'a> {
    pub(super) client: &'a Arc<Client>,
    pub(super) keys: &'a Keys,
    pub(super) runtime: &'a Handle,
    pub(super) ttl: i64,
}

impl Announcer<'_> {
    pub(super) async fn announce(
        &self,
        instance: Instance,
        claim: Claim,
    ) -> Result<Announcement, RegistryError> {
        let grant = GrantedLease::ask(self.client, self.ttl).await?;
        let (client, runtime) = (Arc::clone(self.client), self.runtime.clone());
        let mut taken_back = RevokeOnDrop { client, runtime, lease: Some(grant.id) };
        let instance = match claim {
            Claim::New => {
                let epoch = instance.epoch().max(grant.revision.saturating_mul(ATTEMPTS));
                instance.with_epoch(epoch)
            }
            Claim::Again => instance,
        };
        let entry = LeasedEntry {
            key: self.keys.entry(instance.service(), instance.id()),
            note: self.keys.note(instance.service(), instance.id()),
            lease: grant.id,
        };
        self.write(&entry, &instance, claim).await?;
        taken_back.lease = None;
        let ttl = grant.ttl;
        let (tell, lost) = oneshot::channel();
        let client = Arc::clone(self.client);
        let renewal = self.runtime.spawn(async move {
            let _ = tell.send(grant.keep(&client).await);
        });
        let session = EtcdSession {
            client: Arc::clone(self.client),
            runtime: self.runtime.clone(),
            renewal: renewal.abort_handle(),
            entry,
            ttl,
        };
        let lost = Box::pin(async move {
            match lost.await {
                Ok(reason) => reason,
                Err(_) => std::future::pending().await,
            }
        });
        Ok(Announcement { instance, lost, session: Box::new(session) })
    }

    /// Writes the entry, if there is none or an older one of the same provider.
    async fn write(
        &self,
        entry: &LeasedEntry,
        instance: &Instance,
        claim: Claim,
    ) -> Result<(), RegistryError> {
        let value = serde_json::to_vec(instance).map_err(|error| {
            RegistryError::invalid_instance(format!("the instance is no JSON: {error}"))
        })?;
        let mut condition = Compare::is_absent(&entry.key);
        for _ in 0..MAX_ROUNDS {
            let put = RequestOp::put(&entry.key, value.clone(), entry.lease);
            let request = TxnRequest {
                compare: vec![condition],
                success: vec![put, RequestOp::delete(&entry.note)],
                failure: vec![RequestOp::read(&entry.key)],
            };
            let outcome: TxnResponse = self.client.call(Method::TXN, request).await?;
            if outcome.succeeded {
                return Ok(());
            }
            condition = match outcome.read() {
                // An attempt whose response was lost.
                Some(found) if found.lease == entry.lease => return Ok(()),
                Some(found) if claim == Claim::Again && self.is_older(&found, instance) => {
                    Compare::is_unchanged_since(&entry.key, found.mod_revision)
                }
                Some(_) => return Err(self.taken(instance)),
                None => Compare::is_absent(&entry.key),
            };
        }
        Err(RegistryError::unavailable(format!(
            "the entry of {:?} of {:?} changes all the time",
            instance.id(),
            instance.service()
        ))
        .with_registry(self.client.uri()))
    }

    fn is_older(&self, found: &KeyValue, instance: &Instance) -> bool {
        self.keys.instance(found).is_some_and(|found| found.epoch() < instance.epoch())
    }

    fn taken(&self, instance: &Instance) -> RegistryError {
        RegistryError::already_exists(format!(
            "the instance {:?} of {:?} is registered and alive",
            instance.id(),
            instance.service()
        ))
        .with_registry(self.client.uri())
        .with_hint(
            "give each provider its own id, or wait until the lease of one that was killed has \
             ended",
        )
    }
}

/// Revokes the lease of an announcement that was not completed. The attached keys are deleted, and
/// later requests with that lease fail.
struct RevokeOnDrop {
    client: Arc<Client>,
    runtime: Handle,
    lease: Option<i64>,
}

impl Drop for RevokeOnDrop {
    fn drop(&mut self) {
        let Some(id) = self.lease else { return };
        let client = Arc::clone(&self.client);
        self.runtime.spawn(async move {
            if let Err(error) = lease::revoke(&client, id).await {
                tracing::debug!(%error, "a lease ends only with its time");
            }
        });
    }
}

/// The keys of a registration, and its lease.
#[derive(Clone)]
struct LeasedEntry {
    key: Vec<u8>,
    note: Vec<u8>,
    lease: i64,
}

impl LeasedEntry {
    /// Replaces the entry by the note of an orderly departure, if it is still this entry. Watches
    /// receive both changes together. The note expires with the lease, which is no longer renewed.
    async fn withdraw(&self, client: &Client) -> Result<(), RegistryError> {
        let request = TxnRequest {
            compare: vec![Compare::belongs_to(&self.key, self.lease)],
            success: vec![
                RequestOp::delete(&self.key),
                RequestOp::put(&self.note, Vec::new(), self.lease),
            ],
            failure: Vec::new(),
        };
        client.call::<_, TxnResponse>(Method::TXN, request).await.map(drop)
    }
}

/// Removes the entry of any provider, and leaves the note of an orderly departure.
pub(super) async fn remove(
    client: &Client,
    keys: &Keys,
    (service, id): (&str, &str),
    ttl: i64,
) -> Result<bool, RegistryError> {
    let (key, note) = (keys.entry(service, id), keys.note(service, id));
    let lease = GrantedLease::ask(client, ttl).await?.id;
    let request = TxnRequest {
        compare: vec![Compare::is_there(&key)],
        success: vec![RequestOp::delete(&key), RequestOp::put(&note, Vec::new(), lease)],
        failure: vec![RequestOp::read(&note)],
    };
    let outcome: TxnResponse = client.call(Method::TXN, request).await?;
    // A note with this lease is from an attempt whose response was lost.
    Ok(outcome.succeeded || outcome.read().is_some_and(|found| found.lease == lease))
}

struct EtcdSession {
    client: Arc<Client>,
    runtime: Handle,
    renewal: AbortHandle,
    entry: LeasedEntry,
    ttl: Duration,
}

impl Session for EtcdSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        self.renewal.abort();
        Box::pin(self.entry.withdraw(&self.client))
    }

    fn abandon(&mut self) {
        self.renewal.abort();
        let (client, entry) = (Arc::clone(&self.client), self.entry.clone());
        // The lease has ended by then.
        let end = Instant::now() + self.ttl;
        self.runtime.spawn(async move {
            while let Err(error) = entry.withdraw(&client).await {
                if !error.is_unavailable() || Instant::now() + PAUSE >= end {
                    limited!(warn, %error, "a registration ends only with its lease");
                    return;
                }
                sleep(PAUSE).await;
            }
        });
    }
}

impl Drop for EtcdSession {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}
