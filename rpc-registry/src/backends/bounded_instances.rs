//! [`BoundedInstances`]: the instances of a service that a back end stores, of bounded size.

use std::collections::BTreeMap;

use crate::{Instance, limited};

/// Maximum for a service: about 50,000 instances, as in a file registry.
const MAX_BYTES: usize = 64 << 20;
/// Overhead per instance, in addition to its text.
const EACH: usize = 1024;

/// The instances of one service, by id. A client of the registry can write any number of instances.
/// Those beyond the maximum are skipped, and known ones stay.
pub(crate) struct BoundedInstances {
    by_id: BTreeMap<String, Entry>,
    room: usize,
}

struct Entry {
    instance: Instance,
    bytes: usize,
}

impl BoundedInstances {
    pub(crate) fn new() -> Self {
        Self::with_room(MAX_BYTES)
    }

    fn with_room(room: usize) -> Self {
        Self { by_id: BTreeMap::new(), room }
    }

    /// Adds an instance, or replaces the one with its id. `length` is its length in the registry,
    /// in bytes.
    pub(crate) fn put(&mut self, instance: Instance, length: usize) {
        self.remove(instance.id());
        let bytes = length.saturating_add(EACH);
        match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                self.by_id.insert(instance.id().to_owned(), Entry { instance, bytes });
            }
            None => {
                let (service, instances) = (instance.service(), self.by_id.len());
                limited!(
                    warn,
                    service,
                    instances,
                    limit = MAX_BYTES,
                    "the registry lists more instances of a service than are kept; the others are skipped"
                );
            }
        }
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(entry) = self.by_id.remove(id) {
            self.room = self.room.saturating_add(entry.bytes);
        }
    }

    #[cfg(feature = "zookeeper")]
    pub(crate) fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    #[cfg(feature = "zookeeper")]
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.by_id.keys().map(String::as_str)
    }

    /// Ordered by id.
    pub(crate) fn instances(&self) -> Vec<Instance> {
        self.by_id.values().map(|entry| entry.instance.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str) -> Instance {
        Instance::new("svc", "tcp://h:1").with_id(id)
    }

    fn ids(entries: &BoundedInstances) -> Vec<String> {
        entries.instances().iter().map(|instance| instance.id().to_owned()).collect()
    }

    #[test]
    fn those_for_which_there_is_no_room_are_left_out_and_the_others_stay() {
        let mut entries = BoundedInstances::with_room(2 * (EACH + 100));
        for id in ["m", "n", "a", "z"] {
            entries.put(instance(id), 100);
        }
        assert_eq!(ids(&entries), ["m", "n"]);
        entries.put(instance("m").with_weight(7), 100);
        assert_eq!(entries.instances()[0].weight(), 7);
        entries.put(instance("m"), 101);
        assert_eq!(ids(&entries), ["n"], "what it said before is no longer true");
        entries.put(instance("a"), 100);
        entries.remove("n");
        entries.remove("n");
        entries.put(instance("b"), 100);
        entries.put(instance("c"), 0);
        assert_eq!(ids(&entries), ["a", "b"]);
    }
}
