use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Instance;

/// The living instances of a service at one moment.
///
/// Dereferences to a slice of the instances. Clones share the list.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The instances, ordered by id. Empty if the service has no provider.
    pub instances: Arc<[Instance]>,
    /// Where the list comes from.
    pub source: Source,
    /// The difference from the previous snapshot of a watch. Empty in the result of a lookup.
    pub change: Change,
}

/// Where a [`Snapshot`] comes from.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Source {
    /// Current data from the registry.
    #[default]
    Registry,
    /// Data from the registry, and instances that it no longer lists. So many are missing that a
    /// fault of the registry is more likely than the end of the providers. They are kept for a
    /// while: see [`Protection`](crate::Protection).
    Protected {
        /// The ids of the instances that the registry no longer lists.
        kept: Vec<String>,
    },
    /// The last known data. The registry is not available.
    Cache {
        /// When the data was received from the registry.
        as_of: SystemTime,
    },
}

/// The difference between two [`Snapshot`]s, as ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Change {
    /// New instances.
    pub added: Vec<String>,
    /// Instances that are gone.
    pub removed: Vec<String>,
    /// Instances with other data, such as another URI, weight or epoch.
    pub updated: Vec<String>,
}

impl Snapshot {
    /// Current data from a registry. `instances` must be ordered by id.
    pub fn of(instances: Vec<Instance>) -> Self {
        Self { instances: instances.into(), ..Self::default() }
    }

    /// Sets the source.
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// The age of the data if the registry is not available; `None` for current data. By the
    /// system's clock.
    pub fn age(&self) -> Option<Duration> {
        match &self.source {
            Source::Cache { as_of } => {
                Some(SystemTime::now().duration_since(*as_of).unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Whether it is current data from the registry alone: not protected, not cached.
    pub fn is_current(&self) -> bool {
        self.source == Source::Registry
    }

    /// Sets the difference from an earlier snapshot.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        self.change = Change::between(&before.instances, &self.instances);
        self
    }

    pub(crate) fn has_same_content(&self, other: &Self) -> bool {
        self.instances == other.instances && self.source == other.source
    }
}

impl Deref for Snapshot {
    type Target = [Instance];

    fn deref(&self) -> &[Instance] {
        &self.instances
    }
}

impl IntoIterator for Snapshot {
    type Item = Instance;
    type IntoIter = std::vec::IntoIter<Instance>;

    fn into_iter(self) -> Self::IntoIter {
        // Other clones may still have the list; a copy of an instance is a pointer.
        Vec::from(&*self.instances).into_iter()
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = &'a Instance;
    type IntoIter = std::slice::Iter<'a, Instance>;

    fn into_iter(self) -> Self::IntoIter {
        self.instances.iter()
    }
}

impl Change {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.updated.is_empty()
    }

    /// Both ordered by id.
    fn between(before: &[Instance], after: &[Instance]) -> Self {
        let mut change = Self::default();
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return change,
                // Most instances are shared by both lists, and then their pointers are compared.
                (Some(old), Some(new)) if old == new => std::cmp::Ordering::Equal,
                (Some(old), Some(new)) => old.id().cmp(new.id()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            match (old, new) {
                (Some(old), Some(new)) if old != new => change.updated.push(new.id().to_owned()),
                (Some(old), None) => change.removed.push(old.id().to_owned()),
                (None, Some(new)) => change.added.push(new.id().to_owned()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str) -> Instance {
        Instance::new("svc", "tcp://127.0.0.1:1").with_id(id).with_started_ms(1)
    }

    #[test]
    fn a_change_names_who_came_who_went_and_who_differs() {
        let before = ["a", "b", "d"].map(instance);
        let after = [instance("b").with_weight(1), instance("c"), instance("d"), instance("e")];
        let change = Change::between(&before, &after);
        assert_eq!(change.added, ["c", "e"]);
        assert_eq!(change.removed, ["a"]);
        assert_eq!(change.updated, ["b"]);
        assert!(Change::between(&before, &before).is_empty());
    }

    #[test]
    fn clones_of_a_snapshot_share_its_list() {
        let snapshot = Snapshot::of(vec![instance("a"), instance("b")]);
        assert!(Arc::ptr_eq(&snapshot.instances, &snapshot.clone().instances));
    }

    #[test]
    fn only_what_is_remembered_has_an_age() {
        let snapshot = Snapshot::of(vec![instance("a")]);
        assert_eq!((snapshot.age(), snapshot.is_current()), (None, true));
        let as_of = SystemTime::now() - Duration::from_secs(60);
        let remembered = snapshot.with_source(Source::Cache { as_of });
        assert!(remembered.age().unwrap() >= Duration::from_secs(60));
        assert!(!remembered.is_current());
    }
}
