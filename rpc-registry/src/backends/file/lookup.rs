//! [`Lookup`]: which instances of a service are alive. Blocks the thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::folder::Folder;
use super::format::ListEntry;
use super::lease;
use super::liveness::{Liveness, LivenessCheck};
use super::lock::Mode;
use super::shared_folder::SharedFolder;
use super::ticket_lock;
use crate::{Instance, RegistryError};

/// How often a lookup is repeated after concurrent writes before it locks out writers.
const UNLOCKED_LOOKUPS: usize = 16;

/// The state of one service.
pub(super) struct ServiceState {
    /// The living instances, ordered by id.
    pub(super) living: Vec<Instance>,
    /// The ids of expired instances, and of those that are no longer listed although they hold
    /// their leases.
    pub(super) expired: Vec<String>,
    /// All entries, alive or not.
    pub(super) entries: Vec<Arc<ListEntry>>,
    /// Whether the list was deleted.
    pub(super) is_list_missing: bool,
    /// Whether entries were lost.
    pub(super) is_faulty: bool,
    /// The time until the first living instance may expire.
    pub(super) expires_in: Option<Duration>,
}

/// Looks up services in a folder.
pub(super) struct Lookup<'a> {
    pub(super) folder: &'a Folder,
    pub(super) shared: &'a SharedFolder,
    /// Timeout of the lock that keeps writers out.
    pub(super) lock_timeout: Duration,
}

impl Lookup<'_> {
    /// The names of all services with a living instance.
    pub(super) fn services(&self) -> Result<Vec<String>, RegistryError> {
        let list = self.shared.lists.current(self.folder)?;
        let mut names = Vec::new();
        for (name, entries) in list.intact(self.folder)?.services() {
            // The first entry is usually alive. Otherwise the complete check also finds a provider
            // that has just replaced another one.
            let is_alive = match entries.first() {
                Some(entry) => LivenessCheck::now(self.folder).of(entry)?.is_alive(),
                None => false,
            };
            let state = || self.state(name, &[], false);
            if is_alive || state()?.is_some_and(|state| !state.living.is_empty()) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Which instances of a service are alive.
    ///
    /// The list is only ever replaced as a whole, so it is read without a lock, and a lookup never
    /// waits for a writer that is stopped. But the result must not be empty because a provider was
    /// replaced by another one after the list was read, and is then found dead. So if an instance
    /// is found dead and the list has changed since it was read, the lookup is repeated.
    pub(super) fn state(
        &self,
        service: &str,
        known: &[Arc<ListEntry>],
        only_if_changed: bool,
    ) -> Result<Option<ServiceState>, RegistryError> {
        let mut lookups = 0;
        let mut without_writers = None;
        loop {
            let list = self.shared.lists.current(self.folder)?;
            let entries = list.intact(self.folder)?.of(service);
            if only_if_changed && is_same(known, entries) {
                return Ok(None);
            }
            let (mut living, mut expired, mut expires_in) = (Vec::new(), Vec::new(), None);
            let mut any_missing = false;
            let mut liveness = LivenessCheck::now(self.folder);
            for entry in entries {
                match liveness.of(entry)? {
                    Liveness::Alive(remaining) => {
                        living.push(entry.instance.clone());
                        expires_in = remaining.into_iter().chain(expires_in).min();
                    }
                    Liveness::Expired => {
                        expired.push(entry.instance.id().to_owned());
                        any_missing = true;
                    }
                    Liveness::Dead => any_missing = true,
                }
            }
            if !any_missing || without_writers.is_some() || list.is_current(self.folder)? {
                living.sort_by(|a, b| a.id().cmp(b.id()));
                let mut entries = entries.to_vec();
                let lost = self.lost(known, &entries)?;
                let is_list_missing = list.is_missing();
                let is_faulty = is_list_missing || !lost.is_empty();
                expired.extend(lost.iter().map(|entry| entry.instance.id().to_owned()));
                entries.extend(lost);
                return Ok(Some(ServiceState {
                    living,
                    expired,
                    entries,
                    is_list_missing,
                    is_faulty,
                    expires_in,
                }));
            }
            lookups += 1;
            if lookups == UNLOCKED_LOOKUPS {
                let lock = ticket_lock::wait(self.folder, Mode::Shared, self.lock_timeout)?;
                without_writers = Some(lock);
            }
        }
    }

    /// The `known` entries that are no longer listed although their leases are held. A provider
    /// that leaves, or an administrator who removes it, frees the lease first.
    fn lost(
        &self,
        known: &[Arc<ListEntry>],
        listed: &[Arc<ListEntry>],
    ) -> Result<Vec<Arc<ListEntry>>, RegistryError> {
        let ids: HashSet<_> = listed.iter().map(|entry| entry.instance.id()).collect();
        let mut lost = Vec::new();
        for entry in known.iter().filter(|entry| !ids.contains(entry.instance.id())) {
            if lease::is_held(self.folder, &entry.lease)? {
                lost.push(Arc::clone(entry));
            }
        }
        Ok(lost)
    }
}

fn is_same(one: &[Arc<ListEntry>], two: &[Arc<ListEntry>]) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| Arc::ptr_eq(one, two))
}
