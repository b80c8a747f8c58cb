//! [`ServiceRecord`]: one service of a name server's table.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::packed::SharedList;
use super::registration_map::RegistrationMap;

/// Maximum bytes of ids sent with a list: what a payload has room for beside the list.
const DEPARTED_BYTES: usize = 768 << 10;
/// Maximum overhead of each id.
const ID_HEADER: usize = 5;

/// How a registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// It was removed by its provider or by an administrator.
    InOrder,
    /// Its session has ended.
    Expired,
}

/// The registrations of one service, and its followers.
pub(super) struct ServiceRecord {
    pub(super) entries: RegistrationMap,
    /// The number of the last change.
    pub(super) changes: watch::Sender<u64>,
    /// The registrations that left in order, with the number of the change.
    departed: VecDeque<(u64, Arc<str>)>,
    /// The encoded list.
    pub(super) packed: SharedList,
}

impl Default for ServiceRecord {
    fn default() -> Self {
        Self {
            entries: RegistrationMap::default(),
            // Not 0, which is the change of the empty list.
            changes: watch::channel(1).0,
            departed: VecDeque::new(),
            packed: SharedList::default(),
        }
    }
}

impl ServiceRecord {
    /// Notes an orderly departure for the followers. Returns whether there are followers, so that
    /// it was stored.
    pub(super) fn depart(&mut self, id: &Arc<str>) -> bool {
        let is_followed = self.changes.receiver_count() > 0;
        if is_followed {
            self.departed.push_back((self.next_change(), Arc::clone(id)));
        }
        is_followed
    }

    /// Removes the oldest departure. Followers that have not received it take it for an expiration.
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

    /// Notifies the followers.
    pub(super) fn publish(&mut self) {
        if self.changes.receiver_count() == 0 {
            self.departed.clear();
        }
        let next = self.next_change();
        self.changes.send_replace(next);
    }

    /// The providers that left in order after the change `seen` and are not in the list of the
    /// change `sent`.
    pub(super) fn departed(&self, seen: u64, sent: u64) -> Vec<String> {
        let from = self.departed.partition_point(|(change, _)| *change <= seen);
        let unsent = self.departed.range(from..).take_while(|(change, _)| *change <= sent);
        let is_back = |id: &str| self.entries.get(id).is_some_and(|entry| entry.change <= sent);
        let mut room = DEPARTED_BYTES;
        let ids = unsent.map(|(_, id)| id).filter(|id| !is_back(id)).map_while(|id| {
            room = room.checked_sub(id.len().saturating_add(ID_HEADER))?;
            Some(id.to_string())
        });
        ids.collect()
    }

    /// Whether there are neither registrations nor followers.
    pub(super) fn is_unused(&self) -> bool {
        self.entries.is_empty() && self.changes.receiver_count() == 0
    }
}
