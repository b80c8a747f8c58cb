//! [`ExpiryProtection`]: which instances that a registry no longer lists are kept for a while. No
//! I/O, no clock.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Protection;
use crate::back_end::Update;
use crate::{Instance, Snapshot, Source};

/// Up to this number of simultaneous expirations do not count as mass expiry, whatever their share.
const FEW: usize = 2;
/// The approximate maximum memory of kept instances, and of recently expired ones.
const MAX_BYTES: usize = 64 << 20;
/// Expirations within this time count together.
const TOGETHER: Duration = Duration::from_secs(10);

/// The instances of one service: those that the registry lists, and those that are kept although it
/// does not.
#[derive(Clone, Default)]
pub(super) struct ExpiryProtection {
    settings: Protection,
    /// The instances that the registry lists.
    listed: BTreeSet<Listed>,
    /// Instances that the registry no longer lists but that are kept.
    kept: BTreeSet<Kept>,
    /// Recently expired instances that are not kept, with the time of their expiration.
    expired: VecDeque<(Instant, Listed)>,
    /// Whether the next list is the first after a fault.
    after_fault: bool,
}

/// An instance. Compared by its id.
#[derive(Clone)]
struct Listed {
    instance: Instance,
    /// When the registry first listed it; `None` if it was known before the registry answered.
    since: Option<Instant>,
}

/// An instance that is kept. Compared by its id.
#[derive(Clone)]
struct Kept {
    listed: Listed,
    until: Instant,
}

impl ExpiryProtection {
    pub(super) fn new(settings: Protection) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Sets the list from the time before the registry could be asked.
    pub(super) fn restore(&mut self, instances: impl IntoIterator<Item = Instance>) {
        let known = instances.into_iter().map(|instance| Listed { instance, since: None });
        self.listed = known.collect();
    }

    /// The registry has a fault, so its next list may be incomplete.
    pub(super) fn note_fault(&mut self) {
        self.after_fault = true;
    }

    /// Applies a list of the registry. Returns the number of instances that are newly kept.
    pub(super) fn apply(&mut self, update: Update, now: Instant) -> usize {
        let after_fault = std::mem::take(&mut self.after_fault) || update.after_fault;
        self.release(now);
        let before = std::mem::take(&mut self.listed);
        self.listed = self.with_age(update.instances, &before, now);
        let departed: BTreeSet<_> = update.departed.into_iter().collect();
        let has_left = |id: &str| departed.contains(id);
        self.kept.retain(|kept| !has_left(kept.id()) && !self.listed.contains(kept.id()));
        self.expired.retain(|(when, expired)| {
            let id = expired.id();
            *when + TOGETHER > now && !has_left(id) && !self.listed.contains(id)
        });
        // Instances that left in order are not expected to be listed.
        let expected = before.iter().filter(|it| !has_left(it.id())).count();
        let known = expected + self.kept.len() + self.expired.len();
        let missing =
            before.into_iter().filter(|it| !has_left(it.id()) && !self.listed.contains(it.id()));
        let expired_before = self.expired.len();
        self.expired.extend(missing.map(|listed| (now, listed)));
        let any_missing = self.expired.len() > expired_before;
        self.bound_expired();
        let gone = self.expired.len() + self.kept.len();
        let many = self.settings.is_much(gone, known);
        let suspicious = if after_fault { many } else { many && gone > FEW };
        let Some(until) = now.checked_add(self.settings.hold).filter(|_| suspicious) else {
            return 0;
        };
        if !any_missing {
            return 0;
        }
        self.keep(until)
    }

    /// The list, with the time at which each instance was first listed.
    fn with_age(
        &self,
        instances: Vec<Instance>,
        before: &BTreeSet<Listed>,
        now: Instant,
    ) -> BTreeSet<Listed> {
        // Instances that expired and returned keep their age.
        let expired: BTreeMap<_, _> =
            self.expired.iter().map(|(_, listed)| (listed.id(), listed.since)).collect();
        let since = |id: &str| {
            let listed = before.get(id).or_else(|| self.kept.get(id).map(|kept| &kept.listed));
            listed.map(|listed| listed.since).or_else(|| expired.get(id).copied())
        };
        let listed = instances.into_iter().map(|instance| {
            let since = since(instance.id()).unwrap_or(Some(now));
            Listed { instance, since }
        });
        listed.collect()
    }

    /// Forgets recently expired instances beyond [`MAX_BYTES`], those listed last first.
    fn bound_expired(&mut self) {
        if fitting(self.expired.iter(), |(_, listed)| listed, MAX_BYTES) == self.expired.len() {
            return;
        }
        self.expired.make_contiguous().sort_by_key(|(_, listed)| listed.since);
        let fitting = fitting(self.expired.iter(), |(_, listed)| listed, MAX_BYTES);
        self.expired.truncate(fitting);
    }

    /// Keeps recently expired instances, up to the maximum: those that were listed for longest.
    /// Returns their number.
    fn keep(&mut self, until: Instant) -> usize {
        let room = self.settings.max_kept.saturating_sub(self.kept.len());
        let mut expired: Vec<_> = self.expired.drain(..).map(|(_, listed)| listed).collect();
        // A stable sort, so that instances of the same age stay ordered by id.
        expired.sort_by_key(|listed| listed.since);
        expired.truncate(room);
        let kept = self.kept.iter().map(|kept| kept.listed.instance.footprint()).sum();
        expired.truncate(fitting(&expired, |listed| listed, MAX_BYTES.saturating_sub(kept)));
        let newly = expired.len();
        self.kept.extend(expired.into_iter().map(|listed| Kept { listed, until }));
        newly
    }

    /// When the first kept instance is to be [released](Self::release).
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.kept.iter().map(|kept| kept.until).min()
    }

    /// Removes instances that were kept for long enough. Returns their number.
    pub(super) fn release(&mut self, now: Instant) -> usize {
        let before = self.kept.len();
        self.kept.retain(|kept| kept.until > now);
        before - self.kept.len()
    }

    /// All instances, listed and kept.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.with_kept(self.listed.iter().map(|listed| listed.instance.clone()).collect())
    }

    /// A list of the registry, ordered by id, with the instances that are kept.
    pub(super) fn with_kept(&self, mut instances: Vec<Instance>) -> Snapshot {
        if self.kept.is_empty() {
            return Snapshot::of(instances);
        }
        let listed: BTreeSet<_> = instances.iter().map(|it| it.id().to_owned()).collect();
        let kept = self.kept.iter().filter(|kept| !listed.contains(kept.id()));
        let kept: Vec<_> = kept.map(|kept| kept.listed.instance.clone()).collect();
        let ids: Vec<_> = kept.iter().map(|kept| kept.id().to_owned()).collect();
        instances.extend(kept);
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        let snapshot = Snapshot::of(instances);
        match ids.is_empty() {
            true => snapshot,
            false => snapshot.with_source(Source::Protected { kept: ids }),
        }
    }
}

/// How many of the first instances fit into `room` bytes.
fn fitting<'a, T: 'a>(
    all: impl IntoIterator<Item = &'a T>,
    listed: impl Fn(&T) -> &Listed,
    mut room: usize,
) -> usize {
    let fits = |it: &&T| match room.checked_sub(listed(it).instance.footprint()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    all.into_iter().take_while(fits).count()
}

impl Listed {
    fn id(&self) -> &str {
        self.instance.id()
    }
}

impl Kept {
    fn id(&self) -> &str {
        self.listed.id()
    }
}

macro_rules! compared_by_id {
    ($type:ty) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.id() == other.id()
            }
        }

        impl Eq for $type {}

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                self.id().cmp(other.id())
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.id()
            }
        }
    };
}

compared_by_id!(Listed);
compared_by_id!(Kept);

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(300);

    fn list(ids: &[&str]) -> Update {
        let instance = |id: &&str| Instance::new("svc", "tcp://h:1").with_id(*id);
        Update { instances: ids.iter().map(instance).collect(), ..Update::default() }
    }

    fn protection(ids: &[&str], now: Instant) -> ExpiryProtection {
        let mut protection = ExpiryProtection::new(Protection::default());
        protection.apply(list(ids), now);
        protection
    }

    fn ids(protection: &ExpiryProtection) -> Vec<String> {
        protection.snapshot().iter().map(|instance| instance.id().to_owned()).collect()
    }

    #[test]
    fn an_empty_list_after_a_fault_keeps_the_last_good_one_for_a_while() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b"], now);
        protection.note_fault();
        assert_eq!(protection.apply(list(&[]), now), 2);
        assert_eq!(ids(&protection), ["a", "b"]);
        let source = Source::Protected { kept: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(protection.snapshot().source, source);
        assert_eq!(protection.next_release(), Some(now + HOLD));
        assert_eq!(protection.release(now + HOLD), 2);
        assert!(ids(&protection).is_empty() && protection.snapshot().is_current());
    }

    #[test]
    fn those_who_register_again_after_a_fault_are_told_from_those_who_are_kept() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b", "c"], now);
        protection.note_fault();
        protection.apply(list(&[]), now);
        protection.apply(list(&["b"]), now + Duration::from_secs(1));
        assert_eq!(ids(&protection), ["a", "b", "c"]);
        let source = Source::Protected { kept: vec!["a".to_owned(), "c".to_owned()] };
        assert_eq!(protection.snapshot().source, source);
        protection.apply(list(&["a", "b", "c"]), now + Duration::from_secs(2));
        assert!(protection.snapshot().is_current());
    }

    #[test]
    fn a_few_that_are_missing_after_a_fault_are_believed_to_be_gone() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b", "c", "d", "e"], now);
        protection.note_fault();
        assert_eq!(protection.apply(list(&["a", "b", "c"]), now), 0);
        assert_eq!(ids(&protection), ["a", "b", "c"]);
    }

    #[test]
    fn an_orderly_departure_of_all_is_believed_at_once_even_after_a_fault() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b", "c", "d"], now);
        protection.note_fault();
        let departed = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(protection.apply(Update { departed, ..list(&[]) }, now), 0);
        assert!(ids(&protection).is_empty());
    }

    #[test]
    fn those_who_left_in_order_do_not_hide_that_all_others_are_missing() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b", "c", "d", "e"], now);
        protection.note_fault();
        let departed = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(protection.apply(Update { departed, ..list(&[]) }, now), 2);
        assert_eq!(ids(&protection), ["d", "e"]);
    }

    #[test]
    fn one_who_is_kept_and_then_leaves_in_order_is_gone() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b"], now);
        protection.note_fault();
        protection.apply(list(&[]), now);
        protection.apply(Update { departed: vec!["a".to_owned()], ..list(&[]) }, now);
        assert_eq!(ids(&protection), ["b"]);
    }

    #[test]
    fn a_crash_without_a_fault_of_the_registry_is_believed_even_of_the_last_one() {
        let now = Instant::now();
        let mut protection = protection(&["a"], now);
        assert_eq!(protection.apply(list(&[]), now), 0);
        assert!(ids(&protection).is_empty());
    }

    #[test]
    fn a_mass_of_lapses_is_not_believed_even_if_they_come_one_by_one() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b", "c", "d", "e"], now);
        protection.apply(list(&["a", "b", "c", "d"]), now);
        protection.apply(list(&["a", "b", "c"]), now + Duration::from_secs(1));
        assert_eq!(ids(&protection), ["a", "b", "c"], "two crashes");
        assert_eq!(protection.apply(list(&["a", "b"]), now + Duration::from_secs(2)), 3);
        assert_eq!(
            ids(&protection),
            ["a", "b", "c", "d", "e"],
            "a mass, of which two were believed"
        );
    }

    #[test]
    fn crashes_that_are_far_apart_are_no_mass() {
        let now = Instant::now();
        let mut protection = protection(&["a", "b", "c", "d"], now);
        for (n, left) in [&["a", "b", "c"][..], &["a", "b"], &["a"], &[]].iter().enumerate() {
            protection.apply(list(left), now + Duration::from_secs(60) * n as u32);
        }
        assert!(ids(&protection).is_empty());
    }

    #[test]
    fn without_protection_everything_is_believed() {
        let now = Instant::now();
        let mut protection = ExpiryProtection::new(Protection::off());
        protection.apply(list(&["a", "b", "c", "d"]), now);
        protection.note_fault();
        assert_eq!(protection.apply(list(&[]), now), 0);
        assert!(ids(&protection).is_empty());
    }

    #[test]
    fn a_mass_that_comes_and_vanishes_is_not_kept_instead_of_those_that_were_there_before() {
        let now = Instant::now();
        let mut protection = ExpiryProtection::new(Protection::default().with_max_kept(4));
        protection.apply(list(&["x", "y", "z"]), now);
        let fakes: Vec<_> = (0..100).map(|n| format!("fake-{n:03}")).collect();
        let mut all: Vec<_> = fakes.iter().map(String::as_str).collect();
        all.extend(["x", "y", "z"]);
        protection.apply(list(&all), now + Duration::from_secs(60));
        assert_eq!(protection.apply(list(&[]), now + Duration::from_secs(120)), 4);
        assert_eq!(ids(&protection), ["fake-000", "x", "y", "z"]);
        // The same maximum holds for instances that lapse later.
        protection.apply(list(&all), now + Duration::from_secs(121));
        protection.apply(list(&[]), now + Duration::from_secs(122));
        assert_eq!(ids(&protection), ["fake-000", "x", "y", "z"], "as old as they were");
    }

    #[test]
    fn large_instances_that_come_and_vanish_take_no_more_memory_than_is_stated() {
        let now = Instant::now();
        let value = "v".repeat(4096);
        let large = |id: String| {
            let it = Instance::new("svc", "tcp://h:1").with_id(id);
            (0..64).fold(it, |it, key| it.with_metadata(key.to_string(), &value))
        };
        let mut protection = ExpiryProtection::new(Protection::default());
        protection.apply(list(&["x", "y", "z"]), now);
        for round in 1..10 {
            let now = now + Duration::from_secs(round);
            let mut instances: Vec<_> = (0..100).map(|n| large(format!("{round}-{n}"))).collect();
            instances.extend(list(&["x", "y", "z"]).instances);
            protection.apply(Update { instances, ..Update::default() }, now);
            // Once without a mass, so that they are only remembered as lapsed.
            protection.settings.percent = if round % 2 == 0 { 100 } else { 50 };
            protection.apply(list(&[]), now);
            let lapsed = protection.expired.iter().map(|(_, expired)| expired.instance.footprint());
            assert!(lapsed.sum::<usize>() <= MAX_BYTES);
        }
        let kept = protection.kept.iter().map(|kept| kept.listed.instance.footprint());
        assert!(kept.sum::<usize>() <= MAX_BYTES);
        assert!(["x", "y", "z"].iter().all(|id| protection.kept.contains(*id)));
    }

    #[test]
    fn what_was_remembered_counts_as_known() {
        let now = Instant::now();
        let mut protection = ExpiryProtection::new(Protection::default());
        protection.restore(list(&["a"]).instances);
        protection.note_fault();
        protection.apply(list(&[]), now);
        assert_eq!(ids(&protection), ["a"]);
    }
}
