//! [`RegistrationMap`]: the registrations of one service, with cheap snapshots.

use std::sync::Arc;

use super::stored_registration::StoredRegistration;

/// A chunk with more entries is split.
const MAX_CHUNK: usize = 256;

/// Registrations, ordered by id, in chunks that snapshots share. A change copies the references of
/// one chunk, so neither it nor a snapshot of a long list holds the table's lock for long.
#[derive(Default, Clone)]
pub(super) struct RegistrationMap {
    /// None is empty.
    chunks: Vec<Arc<Vec<Arc<StoredRegistration>>>>,
    len: usize,
    /// Encoded size of all entries.
    listed: usize,
}

impl RegistrationMap {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of the whole list in bytes, without its header.
    pub(super) fn listed_bytes(&self) -> usize {
        self.listed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<StoredRegistration>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<StoredRegistration>> {
        let chunk = self.chunks.get(self.chunk_of(id))?;
        let at = chunk.binary_search_by(|entry| (*entry.id).cmp(id)).ok()?;
        chunk.get(at)
    }

    /// Returns the entry that had the id.
    pub(super) fn insert(
        &mut self,
        entry: Arc<StoredRegistration>,
    ) -> Option<Arc<StoredRegistration>> {
        self.listed = self.listed.saturating_add(entry.packed.len());
        let index = self.chunk_of(&entry.id);
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![entry]));
            self.len = 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|it| it.id.cmp(&entry.id)) {
            Ok(at) => {
                let replaced = chunk.get_mut(at).map(|place| std::mem::replace(place, entry));
                let freed = replaced.as_ref().map_or(0, |it| it.packed.len());
                self.listed = self.listed.saturating_sub(freed);
                replaced
            }
            Err(at) => {
                chunk.insert(at, entry);
                self.len = self.len.saturating_add(1);
                if chunk.len() > MAX_CHUNK {
                    let second = chunk.split_off(MAX_CHUNK / 2);
                    self.chunks.insert(index.saturating_add(1), Arc::new(second));
                }
                None
            }
        }
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<StoredRegistration>> {
        let index = self.chunk_of(id);
        let chunk = self.chunks.get_mut(index)?;
        let at = chunk.binary_search_by(|entry| (*entry.id).cmp(id)).ok()?;
        let chunk = Arc::make_mut(chunk);
        let removed = chunk.remove(at);
        if chunk.is_empty() {
            self.chunks.remove(index);
        }
        self.len = self.len.saturating_sub(1);
        self.listed = self.listed.saturating_sub(removed.packed.len());
        Some(removed)
    }

    /// The index of the chunk that contains the id or would receive it: the last one that does not
    /// begin after it.
    fn chunk_of(&self, id: &str) -> usize {
        let begins_before = |chunk: &Arc<Vec<Arc<StoredRegistration>>>| {
            chunk.first().is_some_and(|first| *first.id <= *id)
        };
        self.chunks.partition_point(begins_before).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(id: u16, epoch: u64) -> Arc<StoredRegistration> {
        Arc::new(StoredRegistration { epoch, ..StoredRegistration::for_test(&format!("{id:05}")) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn they_are_an_ordered_map(changes in prop::collection::vec((0..700_u16, 0..4_u8), 0..1_500)) {
            let (mut entries, mut model) = (RegistrationMap::default(), BTreeMap::new());
            let mut snapshots = Vec::new();
            for (epoch, (id, kind)) in (0_u64..).zip(changes) {
                let name = format!("{id:05}");
                let (old, expected) = if kind == 0 {
                    (entries.remove(&name), model.remove(&name))
                } else {
                    (entries.insert(entry(id, epoch)), model.insert(name.clone(), epoch))
                };
                prop_assert_eq!(old.map(|it| it.epoch), expected);
                prop_assert_eq!(entries.get(&name).map(|it| it.epoch), model.get(&name).copied());
                if epoch % 500 == 0 {
                    snapshots.push((entries.clone(), model.clone()));
                }
            }
            snapshots.push((entries, model));
            for (entries, model) in snapshots {
                let all: Vec<_> = entries.iter().map(|it| (it.id.to_string(), it.epoch)).collect();
                prop_assert_eq!((entries.len(), entries.is_empty()), (model.len(), model.is_empty()));
                let listed: usize = entries.iter().map(|it| it.packed.len()).sum();
                prop_assert_eq!(entries.listed_bytes(), listed);
                prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
                prop_assert!(entries.chunks.iter().all(|it| (1..=MAX_CHUNK).contains(&it.len())));
            }
        }
    }

    #[test]
    fn a_change_beside_a_snapshot_copies_as_little_of_a_long_list_as_of_a_short_one() {
        for len in [1_000, 4_000, 60_000] {
            let mut entries = RegistrationMap::default();
            for id in 0..len {
                entries.insert(entry(id, 1));
            }
            for id in [0, len / 2, len - 1] {
                let snapshot = entries.clone();
                entries.insert(entry(id, 2));
                let shared = |chunk| snapshot.chunks.iter().any(|it| Arc::ptr_eq(it, chunk));
                assert_eq!(entries.chunks.iter().filter(|chunk| !shared(chunk)).count(), 1);
            }
        }
    }
}
