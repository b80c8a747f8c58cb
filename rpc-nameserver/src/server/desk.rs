//! [`Desk`]: the contract, on top of the table.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream;
use futures_core::Stream;
use rpc_registry::Instance;
use rpc_runtime::{Blob, RpcError, Streaming};
use tokio::sync::{oneshot, watch};

use super::table::Table;
use crate::contract::{Listing, NameError, NameService, Refusal, unpack};

/// Changes that come within this time of a list are told together.
const COALESCE: Duration = Duration::from_millis(50);
/// Milliseconds.
const SHORTEST_EXPIRY: u64 = 1_000;
const LONGEST_EXPIRY: u64 = 86_400_000;

pub(super) struct Desk(pub(super) Arc<Table>);

impl NameService for Desk {
    async fn attend(&self, session: u64, expiry_ms: u64) -> Result<Streaming<()>, NameError> {
        if !(SHORTEST_EXPIRY..=LONGEST_EXPIRY).contains(&expiry_ms) {
            return Err(NameError::Invalid(format!(
                "an expiry of {expiry_ms} ms is not within {SHORTEST_EXPIRY} and {LONGEST_EXPIRY}"
            )));
        }
        let (attendance, over) = self.0.attend(session, Duration::from_millis(expiry_ms))?;
        let table = Arc::clone(&self.0);
        Ok(Streaming::from_stream(Attendance { table, session, attendance, over }))
    }

    async fn renew(&self, session: u64, version: u64) -> rpc_runtime::Result<bool> {
        Ok(self.0.leases.touch(session).is_some_and(|known| known == version))
    }

    async fn report(
        &self,
        session: u64,
        version: u64,
        changes: Blob,
    ) -> Result<Vec<Refusal>, NameError> {
        // Before the body is so much as decoded, which may take long.
        self.0.leases.touch(session).ok_or(NameError::NoSession)?;
        self.0.report(session, version, unpack(&changes)?)
    }

    async fn lookup(&self, service: String) -> Result<Listing, NameError> {
        self.0.lookup(&service)
    }

    async fn follow(&self, service: String) -> Result<Streaming<Listing>, NameError> {
        check_service(&service)?;
        let changes = self.0.follow(&service)?;
        let table = Arc::clone(&self.0);
        let follower = Follower { changes: Some(changes), seen: None, service, table };
        Ok(Streaming::from_stream(stream::unfold(follower, |mut follower| async {
            let listing = follower.next().await?;
            Some((listing, follower))
        })))
    }

    async fn services(&self) -> Result<Vec<String>, NameError> {
        self.0.services()
    }

    async fn remove(&self, service: String, id: String) -> Result<bool, NameError> {
        self.0.remove(&service, &id)
    }
}

/// Names that nobody can register are not worth to be remembered.
fn check_service(service: &str) -> Result<(), NameError> {
    Instance::new(service, "tcp://any:1")
        .validate()
        .map_err(|error| NameError::Invalid(error.to_string()))
}

/// What a provider holds while it attends. The framework drops it with the connection.
struct Attendance {
    table: Arc<Table>,
    session: u64,
    attendance: u64,
    over: oneshot::Receiver<()>,
}

impl Stream for Attendance {
    type Item = Result<(), RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.over).poll(cx).map(|_| None)
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.table.leave(self.session, self.attendance);
    }
}

struct Follower {
    table: Arc<Table>,
    service: String,
    /// `None` only while it is dropped.
    changes: Option<watch::Receiver<u64>>,
    /// The last change that was told.
    seen: Option<u64>,
}

impl Follower {
    /// The next list; `None` when the server stops.
    async fn next(&mut self) -> Option<Result<Listing, RpcError>> {
        let changes = self.changes.as_mut()?;
        if self.seen.is_some() {
            tokio::time::sleep(COALESCE).await;
            changes.changed().await.ok()?;
        }
        // Read before the list: what changes in between is told once more rather than not at all.
        let now = *changes.borrow_and_update();
        let listing = self.table.listing(&self.service, self.seen);
        self.seen = Some(now);
        Some(listing.map_err(|error| match error {
            NameError::Rpc(error) => error,
            other => RpcError::internal(format!("{other:?}")),
        }))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.changes = None;
        self.table.unfollow(&self.service);
    }
}
