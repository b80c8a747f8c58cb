use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::changes::{Added, Change, EntryKey};
use super::process_lease::ProcessLease;
use super::store::Store;
use crate::back_end::{Announcement, Claim, Session};
use crate::{BoxFuture, Instance, RegistryError};

/// A registration in the list.
struct FileSession {
    store: Arc<Store>,
    process_lease: Arc<ProcessLease>,
    entry: EntryKey,
    /// Whether the lease was released and the entry is still to be removed.
    is_released: bool,
}

/// Adds an instance to the list.
pub(super) async fn announce(
    store: &Arc<Store>,
    instance: Instance,
    claim: Claim,
    lease_time: Duration,
) -> Result<Announcement, RegistryError> {
    let owner = Arc::clone(store);
    let announce = Box::new(|added| announcement(owner, added));
    store.commit(|reply| Change::Add { instance, claim, lease_time, announce, reply }).await
}

fn announcement(store: Arc<Store>, added: Added) -> Announcement {
    let Added { instance, process_lease, lease } = added;
    let entry = EntryKey {
        service: instance.service().to_owned(),
        id: instance.id().to_owned(),
        lease: lease.name().to_owned(),
    };
    let (lost, receiver) = oneshot::channel();
    process_lease.join(lease, lost);
    let session = FileSession { store, process_lease, entry, is_released: false };
    let lost = Box::pin(async {
        match receiver.await {
            Ok(error) => error,
            // Released, or removed by an administrator.
            Err(_) => std::future::pending().await,
        }
    });
    Announcement { instance, lost, session: Box::new(session) }
}

impl FileSession {
    fn release(&mut self) {
        self.is_released |= self.process_lease.leave(&self.entry.lease);
    }
}

impl Session for FileSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.release();
            if self.is_released && !self.store.folder().is_gone() {
                let entry = self.entry.clone();
                self.store.commit(|reply| Change::Clean { entry, reply }).await?;
            }
            self.is_released = false;
            Ok(())
        })
    }

    fn abandon(&mut self) {
        self.release();
        if !std::mem::take(&mut self.is_released) || self.store.folder().is_gone() {
            return;
        }
        let (store, entry) = (Arc::clone(&self.store), self.entry.clone());
        self.store.runtime().spawn(async move {
            if let Err(error) = store.commit(|reply| Change::Clean { entry, reply }).await {
                tracing::debug!(%error, "a dead entry stays in the list until a later write");
            }
        });
    }
}

impl Drop for FileSession {
    fn drop(&mut self) {
        self.abandon();
    }
}
