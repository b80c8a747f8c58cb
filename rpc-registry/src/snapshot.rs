use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Instance;

/// The living instances of a service, as they are known at one moment.
///
/// It can be used like a slice of them. Clones share the list.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Ordered by id; empty when nobody provides the service.
    pub instances: Arc<[Instance]>,
    /// Where that is known from.
    pub source: Source,
    /// What is new in it; empty in the answer of a lookup.
    pub change: Change,
}

/// Where a [`Snapshot`] comes from.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Source {
    /// It is what the registry says.
    #[default]
    Registry,
    /// The registry has lost so many instances that it is more likely to be wrong than they are to
    /// be gone. They are kept for a while: see [`Protection`](crate::Protection).
    Protected {
        /// The ids of those that the registry does not have any more.
        kept: Vec<String>,
    },
    /// The registry can't be asked; this is what it said last.
    Cache {
        /// When it said so.
        as_of: SystemTime,
    },
}

/// What differs from an earlier [`Snapshot`], as ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Change {
    /// Those that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those of which something else is said, such as another URI, weight or epoch.
    pub updated: Vec<String>,
}

impl Snapshot {
    /// What a registry says now. `instances` are ordered by id.
    pub fn of(instances: Vec<Instance>) -> Self {
        Self { instances: instances.into(), ..Self::default() }
    }

    /// The same instances from another source.
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// How long ago the registry said this, if it can't be asked now. By the system's clock.
    pub fn age(&self) -> Option<Duration> {
        match &self.source {
            Source::Cache { as_of } => {
                Some(SystemTime::now().duration_since(*as_of).unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Whether it is what the registry says now, rather than what is kept or remembered of that.
    pub fn is_current(&self) -> bool {
        self.source == Source::Registry
    }

    /// The same in relation to what was known before.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        self.change = Change::between(&before.instances, &self.instances);
        self
    }

    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
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
        self.instances.to_vec().into_iter()
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
    /// Whether nothing differs.
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
