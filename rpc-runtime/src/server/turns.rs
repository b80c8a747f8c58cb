//! [`Turns`]: entries that wait, in the order in which they are served.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// An entry of [`Turns`].
pub(super) trait Waits: Default {
    /// Entries of a smaller rank are served first. `None` if nothing waits in it.
    fn rank(&self) -> Option<usize>;

    /// Whether it can be removed.
    fn is_unused(&self) -> bool;
}

/// Entries by key. Those of the same rank take turns.
///
/// Each operation takes logarithmic time in the number of entries. No I/O, no clock.
#[derive(Debug)]
pub(super) struct Turns<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// The waiting ones, by rank and turn.
    order: BTreeMap<(usize, u64), K>,
    next_turn: u64,
}

#[derive(Debug, Default)]
struct Entry<V> {
    value: V,
    /// Its key in the order, while it waits.
    at: Option<(usize, u64)>,
}

impl<K, V> Default for Turns<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), next_turn: 0 }
    }
}

impl<K: Copy + Eq + Hash, V: Waits> Turns<K, V> {
    /// The rank and the key of the entry that is next.
    pub(super) fn first(&self) -> Option<(usize, K)> {
        self.order.first_key_value().map(|((rank, _), key)| (*rank, *key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn keys(&self) -> Vec<K> {
        self.entries.keys().copied().collect()
    }

    /// Changes an entry, which is created if there is none. It keeps its turn, and gets one when it
    /// begins to wait.
    pub(super) fn change<R>(&mut self, key: K, change: impl FnOnce(&mut V) -> R) -> R {
        self.update(key, false, change)
    }

    /// As [`change`](Self::change), but the entry gets the last turn.
    pub(super) fn serve<R>(&mut self, key: K, change: impl FnOnce(&mut V) -> R) -> R {
        self.update(key, true, change)
    }

    fn update<R>(&mut self, key: K, served: bool, change: impl FnOnce(&mut V) -> R) -> R {
        let entry = self.entries.entry(key).or_default();
        let before = entry.at.take();
        if let Some(at) = before {
            self.order.remove(&at);
        }
        let result = change(&mut entry.value);
        if let Some(rank) = entry.value.rank() {
            let turn = match before {
                Some((_, turn)) if !served => turn,
                _ => {
                    self.next_turn += 1;
                    self.next_turn
                }
            };
            entry.at = Some((rank, turn));
            self.order.insert((rank, turn), key);
        } else if entry.value.is_unused() {
            self.entries.remove(&key);
        }
        result
    }
}
