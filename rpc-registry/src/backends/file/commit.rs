//! Writes the waiting changes of the list.
//!
//! The task that holds the registry lock writes the changes of all tasks of its process: a list of
//! thousands of entries is replaced once for many changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::changes::{Added, Change, EntryKey};
use super::folder::Folder;
use super::format::ListEntry;
use super::lease::{self, LeaseFile};
use super::list::{self, List};
use super::liveness::{Liveness, LivenessCheck};
use super::shared_folder::SharedFolder;
use super::{signals, sweep};
use crate::back_end::Claim;
use crate::{Instance, RegistryError};

/// Writes the waiting changes. The caller holds the exclusive registry lock.
pub(super) fn write_waiting(folder: &Arc<Folder>, shared: &SharedFolder) {
    let changes = shared.queue.take();
    let list = match shared.lists.current(folder) {
        Ok(list) => list,
        Err(error) => {
            changes.into_iter().for_each(|change| change.fail(error.clone()));
            return;
        }
    };
    let mut draft = Draft::new(folder, shared, &list);
    let replies: Vec<_> = changes.into_iter().filter_map(|change| draft.apply(change)).collect();
    let written = draft.write();
    for reply in replies {
        reply(written.clone());
    }
}

/// Sends the result of a change once it is known whether the list was written.
type SendReply = Box<dyn FnOnce(Result<(), RegistryError>)>;

/// The next list.
struct Draft<'a> {
    folder: &'a Arc<Folder>,
    shared: &'a SharedFolder,
    list: &'a List,
    liveness: LivenessCheck<'a>,
    /// By service and id: the entry that replaces the one of the list.
    changed: HashMap<String, HashMap<String, Option<Arc<ListEntry>>>>,
    added: Vec<Arc<ListEntry>>,
    has_folders: bool,
}

impl<'a> Draft<'a> {
    fn new(folder: &'a Arc<Folder>, shared: &'a SharedFolder, list: &'a List) -> Self {
        let liveness = LivenessCheck::now(folder);
        let (changed, added) = Default::default();
        Self { folder, shared, list, liveness, changed, added, has_folders: false }
    }

    /// A failed change is answered at once. A change whose caller is gone is skipped.
    fn apply(&mut self, change: Change) -> Option<SendReply> {
        match change {
            Change::Add { reply, .. } if reply.is_closed() => None,
            Change::Remove { reply, .. } if reply.is_closed() => None,
            Change::Add { instance, claim, lease_time, announce, reply } => {
                match self.add(instance, claim, lease_time) {
                    Ok(added) => Some(Box::new(move |written| {
                        let made = written.map(|()| announce(added));
                        // If the caller is gone, the announcement is dropped and so taken back.
                        let _ = reply.send(made);
                    })),
                    Err(error) => {
                        let _ = reply.send(Err(error));
                        None
                    }
                }
            }
            Change::Remove { service, id, reply } => match self.remove(&service, &id) {
                Ok(found) => Some(Box::new(move |written| {
                    let _ = reply.send(written.map(|()| found));
                })),
                Err(error) => {
                    let _ = reply.send(Err(error));
                    None
                }
            },
            Change::Clean { entry, reply } => match self.clean(&entry) {
                Ok(()) => Some(Box::new(move |written| drop(reply.send(written)))),
                Err(error) => {
                    let _ = reply.send(Err(error));
                    None
                }
            },
        }
    }

    fn find(&self, service: &str, id: &str) -> Option<Arc<ListEntry>> {
        match self.changed.get(service).and_then(|ids| ids.get(id)) {
            Some(changed) => changed.clone(),
            None => self.list.of(service).iter().find(|e| e.instance.id() == id).cloned(),
        }
    }

    fn put(&mut self, service: &str, id: &str, entry: Option<Arc<ListEntry>>) {
        self.added.extend(entry.clone());
        self.changed.entry(service.to_owned()).or_default().insert(id.to_owned(), entry);
    }

    fn add(
        &mut self,
        instance: Instance,
        claim: Claim,
        lease_time: Duration,
    ) -> Result<Added, RegistryError> {
        let folder = self.folder;
        if !self.has_folders {
            folder.create()?;
            self.has_folders = true;
        }
        let mut epoch = instance.epoch();
        if let Some(found) = self.find(instance.service(), instance.id()) {
            let is_newer = found.instance.epoch() >= instance.epoch();
            if self.liveness.of(&found)?.is_alive() && (claim == Claim::New || is_newer) {
                return Err(RegistryError::already_exists(format!(
                    "the instance {:?} of {:?} is registered and alive",
                    instance.id(),
                    instance.service()
                ))
                .with_registry(folder.uri())
                .with_hint("give each provider its own id, or end the other one first"));
            }
            epoch = epoch.max(found.instance.epoch().saturating_add(1));
        }
        let instance = instance.with_epoch(epoch);
        let process_lease =
            self.shared.process_leases.get(folder, &self.shared.lists, lease_time)?;
        let lease = LeaseFile::create(folder, instance.id())?;
        let reference = Some(process_lease.reference());
        let entry = ListEntry::new(instance.clone(), lease.name().to_owned(), reference);
        let entry = entry.map_err(|error| {
            RegistryError::invalid_instance(format!("the instance can't be written: {error}"))
                .with_registry(folder.uri())
                .with_source(error)
        })?;
        self.put(instance.service(), instance.id(), Some(Arc::new(entry)));
        Ok(Added { instance, process_lease, lease })
    }

    fn remove(&mut self, service: &str, id: &str) -> Result<bool, RegistryError> {
        self.list.intact(self.folder)?;
        let Some(entry) = self.find(service, id) else { return Ok(false) };
        let was_alive = self.liveness.of(&entry)?.is_alive();
        // Before the entry, so that the provider never finds its entry gone without the reason.
        lease::remove(self.folder, &entry.lease)?;
        self.put(service, id, None);
        Ok(was_alive)
    }

    fn clean(&mut self, entry: &EntryKey) -> Result<(), RegistryError> {
        self.list.intact(self.folder)?;
        // A newer entry with the same id has another lease.
        if self.find(&entry.service, &entry.id).is_some_and(|found| found.lease == entry.lease) {
            self.put(&entry.service, &entry.id, None);
        }
        Ok(())
    }

    /// Writes the list if it has changed.
    fn write(mut self) -> Result<(), RegistryError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let is_dead = |entry: &ListEntry| Ok(self.liveness.of(entry)? == Liveness::Dead);
        for dead in sweep::some_dead(self.list, is_dead) {
            // Not an entry that was already replaced.
            let is_listed = self
                .find(dead.instance.service(), dead.instance.id())
                .is_some_and(|found| Arc::ptr_eq(&found, &dead));
            if is_listed {
                self.put(dead.instance.service(), dead.instance.id(), None);
                sweep::remove_lease(self.folder, &dead.lease);
            }
        }
        let is_unchanged = |entry: &ListEntry| match self.changed.get(entry.instance.service()) {
            Some(ids) => !ids.contains_key(entry.instance.id()),
            None => true,
        };
        let mut entries: Vec<_> =
            self.list.readable().iter().filter(|entry| is_unchanged(entry)).cloned().collect();
        // An entry may have been added and removed again.
        let current: HashSet<_> =
            self.changed.values().flat_map(HashMap::values).flatten().map(Arc::as_ptr).collect();
        entries.extend(self.added.into_iter().filter(|e| current.contains(&Arc::as_ptr(e))));
        self.list.set_aside(self.folder)?;
        let list = Arc::new(list::replace(self.folder, entries)?);
        self.shared.sweeper.sweep(self.folder, &list);
        self.shared.lists.note(list);
        signals::send_list(self.folder);
        Ok(())
    }
}
