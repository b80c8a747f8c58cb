//! [`NameServiceProvider`]: the provider of the contract, on top of the table.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream;
use futures_core::Stream;
use rpc_registry::{Instance, Printable};
use rpc_runtime::{Blob, RpcError, Streaming};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use super::audit::Action;
use super::identity::{Caller, Identity};
use super::reports::Reports;
use super::table::Table;
use crate::contract::{Listing, NameError, NameService, Refusal};
use crate::pace::pause;
use crate::secret::Secret;

/// Milliseconds.
const SHORTEST_EXPIRY: u64 = 1_000;
const LONGEST_EXPIRY: u64 = 86_400_000;
/// Maximum concurrent lists of all services.
const MAX_LISTINGS: usize = 4;

pub(super) struct NameServiceProvider {
    table: Arc<Table>,
    reports: Reports,
    /// Limits concurrent lists of all services, which take much memory.
    listings: Semaphore,
}

impl NameServiceProvider {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self { table, reports: Reports::new(), listings: Semaphore::new(MAX_LISTINGS) }
    }

    /// The caller and its identity.
    fn identify(&self) -> Result<(Caller, Arc<Identity>), NameError> {
        let caller = Caller::current();
        let identity = self.table.identify(&caller)?;
        Ok((caller, Arc::new(identity)))
    }

    /// The caller, if it may read the service.
    fn reader(&self, service: &str) -> Result<(Caller, Arc<Identity>), NameError> {
        let (caller, by) = self.identify()?;
        check_service(service)?;
        match by.rights.may_read(service) {
            true => Ok((caller, by)),
            false => Err(self.refuse(&by, &["read", service], "this client may not read it")),
        }
    }

    fn refuse(&self, by: &Identity, what: &[&str], why: &str) -> NameError {
        self.table.audit.record(Action::Refuse, by, what, why);
        NameError::Denied(format!("{}: {why}", Printable(what.join(" "))))
    }
}

impl NameService for NameServiceProvider {
    async fn attend(&self, session: u64, expiry_ms: u64) -> Result<Streaming<()>, NameError> {
        let (caller, by) = self.identify()?;
        if !(SHORTEST_EXPIRY..=LONGEST_EXPIRY).contains(&expiry_ms) {
            return Err(NameError::Invalid(format!(
                "an expiry of {expiry_ms} ms is not within {SHORTEST_EXPIRY} and {LONGEST_EXPIRY}"
            )));
        }
        let expiry = Duration::from_millis(expiry_ms);
        let (attendance, over) =
            self.table.attend(caller, &by, session, expiry).inspect_err(|error| {
                self.table.audit.record(Action::Refuse, &by, &["attend"], &format!("{error:?}"));
            })?;
        let table = Arc::clone(&self.table);
        Ok(Streaming::from_stream(SessionStream { table, session, attendance, over }))
    }

    async fn renew(&self, session: u64, version: u64) -> rpc_runtime::Result<bool> {
        // A client without an identity gets the reason when it attends again.
        let Ok((_, by)) = self.identify() else { return Ok(false) };
        let lease = self.table.leases.touch(session, by.name.as_deref());
        Ok(lease.is_some_and(|lease| lease.version() == version))
    }

    async fn report(
        &self,
        session: u64,
        version: u64,
        changes: Blob,
    ) -> Result<Vec<Refusal>, NameError> {
        let (caller, by) = self.identify()?;
        // Renewed before the report is decoded, which may take long.
        let lease =
            self.table.leases.touch(session, by.name.as_deref()).ok_or(NameError::NoSession)?;
        let _turn = lease.report().await;
        let steps = self.reports.decode(changes).await?;
        // The policy may have changed.
        let by = Arc::new(self.table.identify(&caller)?);
        self.table.report(&by, session, version, steps).await
    }

    async fn lookup(&self, service: String) -> Result<Listing, NameError> {
        self.reader(&service)?;
        let packed = self.table.lookup(&service).await?;
        Ok(Listing { instances: packed.list, departed: Vec::new() })
    }

    async fn follow(&self, service: String) -> Result<Streaming<Listing>, NameError> {
        let (caller, by) = self.reader(&service)?;
        let changes = self.table.follow(&by, &service)?;
        let table = Arc::clone(&self.table);
        let listings = ListingStream {
            changes: Some(changes),
            seen: None,
            bytes: 0,
            service,
            caller,
            by,
            table,
        };
        Ok(Streaming::from_stream(stream::unfold(listings, |mut listings| async {
            let listing = listings.next().await?;
            Some((listing, listings))
        })))
    }

    async fn services(&self) -> Result<Vec<String>, NameError> {
        let (_, by) = self.identify()?;
        let turn = self.listings.acquire().await;
        let _turn = turn.map_err(|error| RpcError::internal(error.to_string()))?;
        self.table.services(&by).await
    }

    async fn remove(
        &self,
        service: String,
        id: String,
        secret: Option<Secret>,
    ) -> Result<bool, NameError> {
        let (_, by) = self.identify()?;
        self.table.remove(&by, &service, &id, secret.as_ref())
    }
}

/// Refuses names that cannot be registered, so that they take no memory.
fn check_service(service: &str) -> Result<(), NameError> {
    Instance::new(service, "tcp://any:1")
        .validate()
        .map_err(|error| NameError::Invalid(error.to_string()))
}

/// The stream of a session. The framework drops it with the connection.
struct SessionStream {
    table: Arc<Table>,
    session: u64,
    attendance: u64,
    over: oneshot::Receiver<()>,
}

impl Stream for SessionStream {
    type Item = Result<(), RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.over).poll(cx).map(|_| None)
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        let Some(ended) = self.table.leave(self.session, self.attendance) else { return };
        let table = Arc::clone(&self.table);
        // Without a runtime, the server has ended, and its table is dropped.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { table.sweep(ended, Action::Leave).await });
        }
    }
}

struct ListingStream {
    table: Arc<Table>,
    service: String,
    /// The client's proof of identity, to be checked against a new policy.
    caller: Caller,
    by: Arc<Identity>,
    /// `None` only while it is dropped.
    changes: Option<watch::Receiver<u64>>,
    /// The number of the change that was sent last.
    seen: Option<u64>,
    /// The length of that list.
    bytes: usize,
}

impl ListingStream {
    /// The next list; `None` when the server stops.
    async fn next(&mut self) -> Option<Result<Listing, RpcError>> {
        let changes = self.changes.as_mut()?;
        if let Some(seen) = self.seen {
            tokio::time::sleep(pause(self.bytes)).await;
            changes.wait_for(|change| *change > seen).await.ok()?;
        }
        Some(self.listing().await.map_err(|error| match error {
            NameError::Rpc(error) => error,
            other => RpcError::unavailable(format!("{other:?}")),
        }))
    }

    async fn listing(&mut self) -> Result<Listing, NameError> {
        if !self.table.identify(&self.caller)?.rights.may_read(&self.service) {
            return Err(NameError::Denied("this client may no longer read it".to_owned()));
        }
        let packed = self.table.list(&self.service).await?;
        let departed = match self.seen {
            Some(seen) => self.table.departed(&self.service, seen, packed.change),
            None => Vec::new(),
        };
        (self.seen, self.bytes) = (Some(packed.change), packed.list.len());
        Ok(Listing { instances: packed.list, departed })
    }
}

impl Drop for ListingStream {
    fn drop(&mut self) {
        self.changes = None;
        self.table.unfollow(&self.by, &self.service);
    }
}
