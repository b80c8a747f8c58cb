//! Changes of the list, written together.
//!
//! Whoever has the registry lock writes the changes of all tasks of the process that wait for it: a
//! list of thousands of lines is replaced once for many of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::beat::Beat;
use super::format::Entry;
use super::lease::{self, LeaseFile};
use super::list::{self, List};
use super::look::{Life, Look};
use super::session::{EntryName, FileSession};
use super::signs;
use super::site::lock;
use super::store::Store;
use super::sweep;
use crate::back_end::{Announcement, Claim};
use crate::{Instance, RegistryError};

/// How many are written together at most, so that the first does not wait long for the last.
const TOGETHER: usize = 512;

/// Where the outcome goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// What someone wants to be done to the list.
pub(super) enum Change {
    Add {
        instance: Instance,
        claim: Claim,
        ttl: Duration,
        reply: Reply<Announcement>,
    },
    /// Says whether it was alive.
    Remove {
        service: String,
        id: String,
        reply: Reply<bool>,
    },
    /// Removes a line whose lease was given back.
    Clean {
        entry: EntryName,
        reply: Reply<()>,
    },
}

/// The changes that wait.
#[derive(Default)]
pub(super) struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    next: u64,
    changes: VecDeque<(u64, Arc<Store>, Change)>,
}

impl Queue {
    /// Returns a number by which it can be taken back.
    pub(super) fn push(&self, store: &Arc<Store>, change: Change) -> u64 {
        let mut waiting = lock(&self.0);
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.changes.push_back((number, Arc::clone(store), change));
        number
    }

    /// Whether it was still waiting.
    pub(super) fn take_back(&self, number: u64) -> bool {
        let mut waiting = lock(&self.0);
        let before = waiting.changes.len();
        waiting.changes.retain(|(queued, ..)| *queued != number);
        waiting.changes.len() < before
    }

    fn take(&self) -> Vec<(u64, Arc<Store>, Change)> {
        let mut waiting = lock(&self.0);
        let many = waiting.changes.len().min(TOGETHER);
        waiting.changes.drain(..many).collect()
    }
}

/// Writes what waits. The caller holds the exclusive registry lock.
pub(super) fn write_waiting(store: &Store) {
    let changes = store.site().queue.take();
    let list = match store.list() {
        Ok(list) => list,
        Err(error) => {
            changes.into_iter().for_each(|(_, _, change)| change.fail(error.clone()));
            return;
        }
    };
    let mut draft = Draft::new(store, &list);
    let mut replies = Vec::with_capacity(changes.len());
    for (_, owner, change) in changes {
        replies.extend(draft.apply(owner, change));
    }
    let written = draft.finish();
    for reply in replies {
        reply(written.clone());
    }
}

impl Change {
    fn fail(self, error: RegistryError) {
        match self {
            Self::Add { reply, .. } => drop(reply.send(Err(error))),
            Self::Remove { reply, .. } => drop(reply.send(Err(error))),
            Self::Clean { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// Tells someone the outcome, once it is known whether the list was written.
type Deliver = Box<dyn FnOnce(Result<(), RegistryError>)>;

/// The list as it is to be.
struct Draft<'a> {
    store: &'a Store,
    list: &'a List,
    look: Look<'a>,
    /// By service and id: what stands there instead.
    changed: HashMap<String, HashMap<String, Option<Arc<Entry>>>>,
    added: Vec<Arc<Entry>>,
    has_folders: bool,
}

impl<'a> Draft<'a> {
    fn new(store: &'a Store, list: &'a List) -> Self {
        let look = Look::now(store.folder());
        let (changed, added) = Default::default();
        Self { store, list, look, changed, added, has_folders: false }
    }

    /// Replies at once if that fails, and to nobody if nobody waits any more.
    fn apply(&mut self, owner: Arc<Store>, change: Change) -> Option<Deliver> {
        match change {
            Change::Add { reply, .. } if reply.is_closed() => None,
            Change::Remove { reply, .. } if reply.is_closed() => None,
            Change::Add { instance, claim, ttl, reply } => {
                match self.add(instance, claim, ttl) {
                    Ok(added) => Some(Box::new(move |written| {
                        let made = written.map(|()| added.announce(owner));
                        // If nobody waits any more, it is dropped and so taken back.
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

    fn find(&self, service: &str, id: &str) -> Option<Arc<Entry>> {
        match self.changed.get(service).and_then(|ids| ids.get(id)) {
            Some(changed) => changed.clone(),
            None => self.list.of(service).iter().find(|e| e.instance.id() == id).cloned(),
        }
    }

    fn put(&mut self, service: &str, id: &str, entry: Option<Arc<Entry>>) {
        self.added.extend(entry.clone());
        self.changed.entry(service.to_owned()).or_default().insert(id.to_owned(), entry);
    }

    fn add(
        &mut self,
        instance: Instance,
        claim: Claim,
        ttl: Duration,
    ) -> Result<Added, RegistryError> {
        let folder = self.store.folder();
        if !self.has_folders {
            folder.create()?;
            self.has_folders = true;
        }
        let mut epoch = instance.epoch();
        if let Some(there) = self.find(instance.service(), instance.id()) {
            let newer = there.instance.epoch() >= instance.epoch();
            if self.look.life(&there)?.is_alive() && (claim == Claim::New || newer) {
                return Err(RegistryError::already_exists(format!(
                    "the instance {:?} of {:?} is registered and alive",
                    instance.id(),
                    instance.service()
                ))
                .with_registry(folder.uri())
                .with_hint("give each provider its own id, or end the other one first"));
            }
            epoch = epoch.max(there.instance.epoch().saturating_add(1));
        }
        let instance = instance.with_epoch(epoch);
        let beat = Beat::at(self.store.site(), folder, ttl)?;
        let lease = LeaseFile::create(folder, instance.id())?;
        let entry = Entry::new(instance.clone(), lease.name().to_owned(), Some(beat.reference()));
        let entry = entry.map_err(|error| {
            RegistryError::invalid_instance(format!("the instance can't be written: {error}"))
                .with_registry(folder.uri())
                .with_source(error)
        })?;
        self.put(instance.service(), instance.id(), Some(Arc::new(entry)));
        Ok(Added { instance, beat, lease })
    }

    fn remove(&mut self, service: &str, id: &str) -> Result<bool, RegistryError> {
        self.list.intact(self.store.folder())?;
        let Some(entry) = self.find(service, id) else { return Ok(false) };
        let was_alive = self.look.life(&entry)?.is_alive();
        // First, so that the provider never finds its line gone without finding out why.
        lease::remove(self.store.folder(), &entry.lease)?;
        self.put(service, id, None);
        Ok(was_alive)
    }

    fn clean(&mut self, entry: &EntryName) -> Result<(), RegistryError> {
        self.list.intact(self.store.folder())?;
        // A newer one of the same id has another lease.
        if self.find(&entry.service, &entry.id).is_some_and(|found| found.lease == entry.lease) {
            self.put(&entry.service, &entry.id, None);
        }
        Ok(())
    }

    /// Writes the list if it is another one.
    fn finish(mut self) -> Result<(), RegistryError> {
        let folder = self.store.folder();
        if self.changed.is_empty() {
            return Ok(());
        }
        for dead in sweep::some_dead(self.list, |entry| Ok(self.look.life(entry)? == Life::Dead)) {
            // Not one that was replaced already.
            let is_there = self
                .find(dead.instance.service(), dead.instance.id())
                .is_some_and(|there| Arc::ptr_eq(&there, &dead));
            if is_there {
                self.put(dead.instance.service(), dead.instance.id(), None);
                sweep::remove_lease(folder, &dead.lease);
            }
        }
        let stands = |entry: &Entry| match self.changed.get(entry.instance.service()) {
            Some(ids) => !ids.contains_key(entry.instance.id()),
            None => true,
        };
        let mut entries: Vec<_> =
            self.list.readable().iter().filter(|entry| stands(entry)).cloned().collect();
        // One may have been added and removed again.
        let standing: HashSet<_> =
            self.changed.values().flat_map(HashMap::values).flatten().map(Arc::as_ptr).collect();
        entries.extend(self.added.into_iter().filter(|e| standing.contains(&Arc::as_ptr(e))));
        self.list.set_aside(folder)?;
        let list = Arc::new(list::replace(folder, entries)?);
        sweep::files_from_time_to_time(self.store, &list);
        self.store.site().note(list);
        signs::give_list(folder);
        Ok(())
    }
}

/// A registration that is about to be in the list.
struct Added {
    instance: Instance,
    beat: Arc<Beat>,
    lease: LeaseFile,
}

impl Added {
    fn announce(self, store: Arc<Store>) -> Announcement {
        let Self { instance, beat, lease } = self;
        let entry = EntryName {
            service: instance.service().to_owned(),
            id: instance.id().to_owned(),
            lease: lease.name().to_owned(),
        };
        let (lost, hears) = oneshot::channel();
        beat.join(lease, lost);
        let session = FileSession { store, beat, entry, has_left: false };
        let lost = Box::pin(async {
            match hears.await {
                Ok(error) => error,
                // Given back, or removed by an administrator.
                Err(_) => std::future::pending().await,
            }
        });
        Announcement { instance, lost, session: Box::new(session) }
    }
}
