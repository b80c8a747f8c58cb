//! [`Listed`]: one service of a name server's table.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::entries::Entries;
use super::packed::SharedList;

/// Maximum bytes of ids sent with a list: what a payload has room for beside the list.
const DEPARTED_BYTES: usize = 768 << 10;
/// Maximum overhead of each id.
const ID_HEADER: usize = 5;

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
    pub(super) entries: Entries,
    /// The number of the last change.
    pub(super) changes: watch::Sender<u64>,
    /// Who left in order, and with which change.
    departed: VecDeque<(u64, Arc<str>)>,
    /// The encoded list.
    pub(super) packed: SharedList,
}

impl Default for Listed {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            // Not 0, which is the change of the empty list.
            changes: watch::channel(1).0,
            departed: VecDeque::new(),
            packed: SharedList::default(),
        }
    }
}

impl Listed {
    /// The followers, if there are any, are to hear that it has left in order. Says whether that is
    /// remembered.
    pub(super) fn depart(&mut self, id: &Arc<str>) -> bool {
        let is_followed = self.changes.receiver_count() > 0;
        if is_followed {
            self.departed.push_back((self.next_change(), Arc::clone(id)));
        }
        is_followed
    }

    /// Forgets the oldest departure. Who has not heard of it takes it for a lapse.
    pub(super) fn forget_one(&mut self) {
        self.departed.pop_front();
    }

    pub(super) fn change(&self) -> u64 {
        *self.changes.borrow()
    }

    /// The number of the current change.
    pub(super) fn next_change(&self) -> u64 {
        self.change().wrapping_add(1)
    }

    /// Tells the followers.
    pub(super) fn publish(&mut self) {
        if self.changes.receiver_count() == 0 {
            self.departed.clear();
        }
        let next = self.next_change();
        self.changes.send_replace(next);
    }

    /// The providers that left in order after the change `seen` and are not in the list of the
    /// change `told`.
    pub(super) fn departed(&self, seen: u64, told: u64) -> Vec<String> {
        let from = self.departed.partition_point(|(change, _)| *change <= seen);
        let unheard = self.departed.range(from..).take_while(|(change, _)| *change <= told);
        let is_back = |id: &str| self.entries.get(id).is_some_and(|entry| entry.change <= told);
        let mut room = DEPARTED_BYTES;
        let ids = unheard.map(|(_, id)| id).filter(|id| !is_back(id)).map_while(|id| {
            room = room.checked_sub(id.len().saturating_add(ID_HEADER))?;
            Some(id.to_string())
        });
        ids.collect()
    }

    /// Whether there is nothing in it and nobody follows it.
    pub(super) fn is_unused(&self) -> bool {
        self.entries.is_empty() && self.changes.receiver_count() == 0
    }
}
