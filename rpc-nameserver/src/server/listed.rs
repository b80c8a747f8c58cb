//! [`Listed`]: one service of a name server's table.

use std::collections::{BTreeMap, VecDeque};

use rpc_runtime::Blob;
use tokio::sync::watch;

use super::state::Entry;
use crate::contract::{Listing, NameError, pack};

/// How a registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Somebody wanted it so.
    InOrder,
    /// Its session is gone, for whatever reason.
    Lapsed,
}

/// The registrations of one service, and who follows them.
pub(super) struct Listed {
    /// By id.
    pub(super) entries: BTreeMap<String, Entry>,
    /// The number of the last change.
    pub(super) changes: watch::Sender<u64>,
    /// Who left in order, and with which change.
    departed: VecDeque<(u64, String)>,
    /// The list as it travels, until something changes.
    packed: Option<Blob>,
}

impl Default for Listed {
    fn default() -> Self {
        let changes = watch::channel(0).0;
        Self { entries: BTreeMap::new(), changes, departed: VecDeque::new(), packed: None }
    }
}

impl Listed {
    /// Returns the entry that had the id. [`publish`](Self::publish) must follow, as after
    /// [`remove`](Self::remove).
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        self.packed = None;
        self.entries.insert(entry.instance.id().to_owned(), entry)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Entry> {
        self.packed = None;
        self.entries.remove(id)
    }

    /// The followers, if there are any, are to hear that it has left in order. Says whether that is
    /// remembered.
    pub(super) fn depart(&mut self, id: &str) -> bool {
        let is_followed = self.changes.receiver_count() > 0;
        if is_followed {
            self.departed.push_back((self.next_change(), id.to_owned()));
        }
        is_followed
    }

    /// Forgets the oldest departure. Who has not heard of it takes it for a lapse.
    pub(super) fn forget_one(&mut self) {
        self.departed.pop_front();
    }

    fn next_change(&self) -> u64 {
        self.changes.borrow().wrapping_add(1)
    }

    /// Tells the followers.
    pub(super) fn publish(&mut self) {
        if self.changes.receiver_count() == 0 {
            self.departed.clear();
        }
        let next = self.next_change();
        self.changes.send_replace(next);
    }

    /// All entries, and who left in order after the change `seen`.
    pub(super) fn listing(&mut self, seen: Option<u64>) -> Result<Listing, NameError> {
        let instances = match &self.packed {
            Some(packed) => packed.clone(),
            None => {
                let all: Vec<_> = self.entries.values().map(|entry| &entry.instance).collect();
                self.packed.insert(pack(&all)?).clone()
            }
        };
        let unheard = self.departed.iter().filter(|(change, id)| {
            seen.is_some_and(|seen| *change > seen) && !self.entries.contains_key(id)
        });
        let departed = unheard.map(|(_, id)| id.clone()).collect();
        Ok(Listing { instances, departed })
    }

    /// Whether there is nothing in it and nobody follows it.
    pub(super) fn is_unused(&self) -> bool {
        self.entries.is_empty() && self.changes.receiver_count() == 0
    }
}
