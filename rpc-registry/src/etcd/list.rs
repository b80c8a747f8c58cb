//! [`List`]: the entries of one service, kept up to date by what a watch tells. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{Keys, Place};
use super::messages::{Event, EventKind, KeyValue};
use crate::Instance;
use crate::back_end::Update;

/// By id.
#[derive(Default)]
pub(super) struct List {
    prefix: Vec<u8>,
    instances: BTreeMap<String, Instance>,
    departed: BTreeSet<String>,
}

impl List {
    /// `prefix` is what the keys of the service begin with.
    pub(super) fn of(keys: &Keys, prefix: &[u8], kvs: Vec<KeyValue>) -> Self {
        let mut list = Self { prefix: prefix.to_vec(), ..Self::default() };
        kvs.into_iter().for_each(|kv| list.put(keys, &kv));
        list
    }

    /// What the key stands for, if it is one of the service's. Who answers may be no etcd.
    fn place(&self, keys: &Keys, key: &[u8]) -> Option<Place> {
        keys.place(key).filter(|_| key.starts_with(&self.prefix))
    }

    pub(super) fn apply(&mut self, keys: &Keys, event: Event) {
        let (kind, Some(kv)) = (event.kind(), event.kv) else { return };
        match kind {
            EventKind::Put => self.put(keys, &kv),
            EventKind::Delete => match self.place(keys, &kv.key) {
                Some(Place::Entry { id, .. }) => drop(self.instances.remove(&id)),
                Some(Place::Note { id }) => drop(self.departed.remove(&id)),
                None => {}
            },
        }
    }

    pub(super) fn into_instances(self) -> Vec<Instance> {
        self.instances.into_values().collect()
    }

    pub(super) fn update(&self) -> Update {
        Update {
            instances: self.instances.values().cloned().collect(),
            departed: self.departed.iter().cloned().collect(),
            after_fault: false,
        }
    }

    fn put(&mut self, keys: &Keys, kv: &KeyValue) {
        match self.place(keys, &kv.key) {
            Some(Place::Entry { id, .. }) => match keys.instance(kv) {
                Some(instance) => drop(self.instances.insert(id, instance)),
                None => drop(self.instances.remove(&id)),
            },
            Some(Place::Note { id }) => drop(self.departed.insert(id)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: Vec<u8>, value: &str) -> KeyValue {
        KeyValue { key, value: value.as_bytes().to_vec(), ..KeyValue::default() }
    }

    fn entry(keys: &Keys, id: &str, weight: u32) -> KeyValue {
        let instance = Instance::new("s", "tcp://h:1").with_id(id).with_weight(weight);
        kv(keys.entry("s", id), &serde_json::to_string(&instance).unwrap())
    }

    fn event(kind: EventKind, kv: KeyValue) -> Event {
        Event { kind: kind.into(), kv: Some(kv) }
    }

    fn ids(list: &List) -> Vec<String> {
        list.update().instances.iter().map(|instance| instance.id().to_owned()).collect()
    }

    #[test]
    fn a_departure_is_told_from_a_lapse_as_long_as_its_note_is_there() {
        let keys = Keys::new("/p");
        let mut list =
            List::of(&keys, b"/p/s/", vec![entry(&keys, "left", 1), entry(&keys, "lapsed", 1)]);
        for id in ["left", "lapsed"] {
            list.apply(&keys, event(EventKind::Delete, kv(keys.entry("s", id), "")));
        }
        list.apply(&keys, event(EventKind::Put, kv(keys.note("s", "left"), "")));
        assert!(ids(&list).is_empty());
        assert_eq!(list.update().departed, ["left"]);
        list.apply(&keys, event(EventKind::Delete, kv(keys.note("s", "left"), "")));
        assert!(list.update().departed.is_empty());
    }

    #[test]
    fn what_is_told_of_another_service_changes_nothing() {
        let keys = Keys::new("/p");
        let other = Instance::new("other", "tcp://h:1").with_id("a");
        let other = kv(keys.entry("other", "a"), &serde_json::to_string(&other).unwrap());
        let mut list = List::of(&keys, b"/p/s/", vec![entry(&keys, "a", 1), other.clone()]);
        list.apply(&keys, event(EventKind::Put, other.clone()));
        list.apply(&keys, event(EventKind::Put, kv(keys.note("other", "a"), "")));
        assert_eq!(list.update().instances[0].service(), "s");
        assert!(list.update().departed.is_empty());
        list.apply(&keys, event(EventKind::Delete, other));
        assert_eq!(ids(&list), ["a"]);
    }

    #[test]
    fn the_last_write_counts_and_what_is_no_instance_is_left_out() {
        let keys = Keys::new("/p");
        let mut list =
            List::of(&keys, b"/p/s/", vec![entry(&keys, "a", 1), kv(b"/p/s/b".to_vec(), "no")]);
        list.apply(&keys, event(EventKind::Put, entry(&keys, "a", 2)));
        assert_eq!(list.update().instances[0].weight(), 2);
        list.apply(&keys, event(EventKind::Put, kv(keys.entry("s", "a"), "no")));
        assert!(ids(&list).is_empty());
        list.apply(&keys, Event::default());
    }
}
