//! [`ServiceEntries`]: the entries of one service, updated by the events of a watch. No I/O.

use std::collections::BTreeSet;

use super::keys::{Keys, ParsedKey};
use super::messages::KeyValue;
use super::watch_messages::{Event, EventKind};
use crate::Instance;
use crate::back_end::Update;
use crate::backends::bounded_instances::BoundedInstances;

/// Maximum notes of departures. etcd removes each when its lease ends.
const MAX_NOTES: usize = 65_536;

pub(super) struct ServiceEntries {
    prefix: Vec<u8>,
    entries: BoundedInstances,
    /// By id.
    departed: BTreeSet<String>,
}

impl ServiceEntries {
    /// `prefix` is the prefix of the keys of the service.
    pub(super) fn of(keys: &Keys, prefix: &[u8], kvs: Vec<KeyValue>) -> Self {
        let (entries, departed) = (BoundedInstances::new(), BTreeSet::new());
        let mut list = Self { prefix: prefix.to_vec(), entries, departed };
        kvs.into_iter().for_each(|kv| list.put(keys, &kv));
        list
    }

    /// The meaning of a key of this service. Responses are untrusted.
    fn place(&self, keys: &Keys, key: &[u8]) -> Option<ParsedKey> {
        keys.place(key).filter(|_| key.starts_with(&self.prefix))
    }

    pub(super) fn apply(&mut self, keys: &Keys, event: Event) {
        let (kind, Some(kv)) = (event.kind(), event.kv) else { return };
        match kind {
            EventKind::Put => self.put(keys, &kv),
            EventKind::Delete => match self.place(keys, &kv.key) {
                Some(ParsedKey::Entry { id, .. }) => self.entries.remove(&id),
                Some(ParsedKey::Note { id }) => drop(self.departed.remove(&id)),
                None => {}
            },
        }
    }

    pub(super) fn into_instances(self) -> Vec<Instance> {
        self.entries.instances()
    }

    pub(super) fn update(&self) -> Update {
        Update {
            instances: self.entries.instances(),
            departed: self.departed.iter().cloned().collect(),
            after_fault: false,
        }
    }

    fn put(&mut self, keys: &Keys, kv: &KeyValue) {
        match self.place(keys, &kv.key) {
            Some(ParsedKey::Entry { id, .. }) => match keys.instance(kv) {
                Some(instance) => self.entries.put(instance, kv.value.len()),
                None => self.entries.remove(&id),
            },
            Some(ParsedKey::Note { id }) if self.departed.len() < MAX_NOTES => {
                self.departed.insert(id);
            }
            // A departure without a note counts as an expiration.
            Some(ParsedKey::Note { .. }) | None => {}
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

    fn ids(list: &ServiceEntries) -> Vec<String> {
        list.update().instances.iter().map(|instance| instance.id().to_owned()).collect()
    }

    #[test]
    fn a_departure_is_told_from_a_lapse_as_long_as_its_note_is_there() {
        let keys = Keys::new("/p");
        let mut list = ServiceEntries::of(
            &keys,
            b"/p/s/",
            vec![entry(&keys, "left", 1), entry(&keys, "lapsed", 1)],
        );
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
        let mut list =
            ServiceEntries::of(&keys, b"/p/s/", vec![entry(&keys, "a", 1), other.clone()]);
        list.apply(&keys, event(EventKind::Put, other.clone()));
        list.apply(&keys, event(EventKind::Put, kv(keys.note("other", "a"), "")));
        assert_eq!(list.update().instances[0].service(), "s");
        assert!(list.update().departed.is_empty());
        list.apply(&keys, event(EventKind::Delete, other));
        assert_eq!(ids(&list), ["a"]);
    }

    #[test]
    fn what_changes_tell_is_kept_within_the_bounds_of_an_answer() {
        let keys = Keys::new("/p");
        let mut list = ServiceEntries::of(&keys, b"/p/s/", vec![entry(&keys, "zz", 1)]);
        let large = "x".repeat(4096);
        for n in 0..400 {
            let id = format!("fake-{n:04}");
            let plain = Instance::new("s", "tcp://h:1").with_id(id.as_str());
            let fake = (0..64).fold(plain, |it, key| it.with_metadata(key.to_string(), &large));
            let fake = kv(keys.entry("s", &id), &serde_json::to_string(&fake).unwrap());
            list.apply(&keys, event(EventKind::Put, fake));
        }
        let update = list.update();
        assert!((200..260).contains(&update.instances.len()), "{}", update.instances.len());
        assert_eq!(update.instances.last().unwrap().id(), "zz", "those that are there stay");
        for n in 0..70_000 {
            let note = kv(keys.note("s", &n.to_string()), "");
            list.apply(&keys, event(EventKind::Put, note));
        }
        list.apply(&keys, event(EventKind::Put, kv(keys.note("s", &"n".repeat(256)), "")));
        assert_eq!(list.update().departed.len(), MAX_NOTES);
    }

    #[test]
    fn the_last_write_counts_and_what_is_no_instance_is_left_out() {
        let keys = Keys::new("/p");
        let mut list = ServiceEntries::of(
            &keys,
            b"/p/s/",
            vec![entry(&keys, "a", 1), kv(b"/p/s/b".to_vec(), "no")],
        );
        list.apply(&keys, event(EventKind::Put, entry(&keys, "a", 2)));
        assert_eq!(list.update().instances[0].weight(), 2);
        list.apply(&keys, event(EventKind::Put, kv(keys.entry("s", "a"), "no")));
        assert!(ids(&list).is_empty());
        list.apply(&keys, Event::default());
    }
}
