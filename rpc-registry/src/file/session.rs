use std::sync::Arc;

use super::beat::Beat;
use super::commit::Change;
use super::store::Store;
use crate::back_end::Session;
use crate::{BoxFuture, RegistryError};

/// A registration in the list.
pub(super) struct FileSession {
    pub(super) store: Arc<Store>,
    pub(super) beat: Arc<Beat>,
    pub(super) entry: EntryName,
    /// The lease is given back; the line is dead and can go.
    pub(super) has_left: bool,
}

/// What tells one entry from all others.
#[derive(Debug, Clone)]
pub(super) struct EntryName {
    pub(super) service: String,
    pub(super) id: String,
    pub(super) lease: String,
}

impl FileSession {
    fn leave(&mut self) {
        self.has_left |= self.beat.leave(&self.entry.lease);
    }
}

impl Session for FileSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.leave();
            if self.has_left && !self.store.folder().is_gone() {
                let entry = self.entry.clone();
                self.store.commit(|reply| Change::Clean { entry, reply }).await?;
            }
            self.has_left = false;
            Ok(())
        })
    }

    fn abandon(&mut self) {
        self.leave();
        if !std::mem::take(&mut self.has_left) || self.store.folder().is_gone() {
            return;
        }
        let (store, entry) = (Arc::clone(&self.store), self.entry.clone());
        self.store.runtime().spawn(async move {
            if let Err(error) = store.commit(|reply| Change::Clean { entry, reply }).await {
                tracing::debug!(%error, "a dead line stays in the registry for now");
            }
        });
    }
}

impl Drop for FileSession {
    fn drop(&mut self) {
        self.abandon();
    }
}
