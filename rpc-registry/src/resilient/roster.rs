//! [`Roster`]: which of the instances that a registry has lost are believed to be gone. No I/O, no
//! clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Protection;
use crate::back_end::Update;
use crate::{Instance, Snapshot, Source};

/// Instances that lapsed together are believed up to this number, whatever their share: two that
/// crash at once are no mass.
const FEW: usize = 2;
/// The approximate maximum memory of kept instances, and of recently lapsed ones.
const MAX_BYTES: usize = 64 << 20;
/// Lapses within this time count as one.
const TOGETHER: Duration = Duration::from_secs(10);

/// The instances of one service: what the registry says, and what is kept beside it.
#[derive(Clone, Default)]
pub(super) struct Roster {
    protection: Protection,
    /// The instances that the registry lists, by id.
    listed: BTreeMap<String, Listed>,
    /// Instances that the registry no longer lists but that are kept, and until when.
    kept: BTreeMap<String, (Listed, Instant)>,
    /// Lapses of late that were believed.
    lapsed: VecDeque<(Instant, Listed)>,
    /// The next list is the first after a fault.
    faulted: bool,
}

#[derive(Clone)]
struct Listed {
    instance: Instance,
    /// When the registry first listed it; `None` if it was known before the registry answered.
    since: Option<Instant>,
}

impl Roster {
    pub(super) fn new(protection: Protection) -> Self {
        Self { protection, ..Self::default() }
    }

    /// What was known before the registry could be asked.
    pub(super) fn remember(&mut self, instances: impl IntoIterator<Item = Instance>) {
        let known = instances.into_iter().map(|instance| Listed { instance, since: None });
        self.listed = known.map(|it| (it.instance.id().to_owned(), it)).collect();
    }

    /// The registry is away, so what it says next may be incomplete.
    pub(super) fn fault(&mut self) {
        self.faulted = true;
    }

    /// Takes over what the registry says now. Says how many instances are newly kept.
    pub(super) fn take(&mut self, update: Update, now: Instant) -> usize {
        let faulted = std::mem::take(&mut self.faulted) || update.after_fault;
        self.release(now);
        let before = std::mem::take(&mut self.listed);
        self.listed = self.listed_since(update.instances, &before, now);
        let departed: BTreeSet<_> = update.departed.into_iter().collect();
        let has_left = |id: &String| departed.contains(id);
        self.kept.retain(|id, _| !has_left(id) && !self.listed.contains_key(id));
        self.lapsed.retain(|(when, lapsed)| {
            let id = lapsed.instance.id().to_owned();
            *when + TOGETHER > now && !has_left(&id) && !self.listed.contains_key(&id)
        });
        // Those who left in order are no part of what should be there.
        let expected = before.into_iter().filter(|(id, _)| !has_left(id)).collect::<Vec<_>>();
        let known = expected.len() + self.kept.len() + self.lapsed.len();
        let missing = expected.into_iter().filter(|(id, _)| !self.listed.contains_key(id));
        let lapsed_before = self.lapsed.len();
        self.lapsed.extend(missing.map(|(_, listed)| (now, listed)));
        let any_missing = self.lapsed.len() > lapsed_before;
        self.bound_lapsed();
        let gone = self.lapsed.len() + self.kept.len();
        let many = self.protection.is_much(gone, known);
        let suspicious = if faulted { many } else { many && gone > FEW };
        let Some(until) = now.checked_add(self.protection.hold).filter(|_| suspicious) else {
            return 0;
        };
        if !any_missing {
            return 0;
        }
        self.keep(until)
    }

    /// The list, with the time at which each instance was first listed.
    fn listed_since(
        &self,
        instances: Vec<Instance>,
        before: &BTreeMap<String, Listed>,
        now: Instant,
    ) -> BTreeMap<String, Listed> {
        // Instances that lapsed and returned keep their age.
        let lapsed: BTreeMap<_, _> =
            self.lapsed.iter().map(|(_, listed)| (listed.instance.id(), listed.since)).collect();
        let since = |id: &str| {
            let listed = before.get(id).or_else(|| self.kept.get(id).map(|(listed, _)| listed));
            listed.map(|listed| listed.since).or_else(|| lapsed.get(id).copied())
        };
        let listed = instances.into_iter().map(|instance| {
            let since = since(instance.id()).unwrap_or(Some(now));
            (instance.id().to_owned(), Listed { instance, since })
        });
        listed.collect()
    }

    /// Forgets recently lapsed instances beyond [`MAX_BYTES`], those listed last first.
    fn bound_lapsed(&mut self) {
        if fitting(self.lapsed.iter(), |(_, listed)| listed, MAX_BYTES) == self.lapsed.len() {
            return;
        }
        self.lapsed.make_contiguous().sort_by_key(|(_, listed)| listed.since);
        let fitting = fitting(self.lapsed.iter(), |(_, listed)| listed, MAX_BYTES);
        self.lapsed.truncate(fitting);
    }

    /// Keeps recently lapsed instances, up to the maximum: those that were listed for longest.
    /// Returns their number.
    fn keep(&mut self, until: Instant) -> usize {
        let room = self.protection.max_kept.saturating_sub(self.kept.len());
        let mut lapsed: Vec<_> = self.lapsed.drain(..).map(|(_, listed)| listed).collect();
        // A stable sort, so that instances of the same age stay ordered by id.
        lapsed.sort_by_key(|listed| listed.since);
        lapsed.truncate(room);
        let kept = self.kept.values().map(|(listed, _)| listed.instance.footprint()).sum();
        lapsed.truncate(fitting(&lapsed, |listed| listed, MAX_BYTES.saturating_sub(kept)));
        let newly = lapsed.len();
        self.kept.extend(lapsed.into_iter().map(|it| (it.instance.id().to_owned(), (it, until))));
        newly
    }

    /// When the first of those that are kept is no longer.
    pub(super) fn due(&self) -> Option<Instant> {
        self.kept.values().map(|(_, until)| *until).min()
    }

    /// Believes that those are gone which were kept for long enough. Says how many.
    pub(super) fn release(&mut self, now: Instant) -> usize {
        let before = self.kept.len();
        self.kept.retain(|_, (_, until)| *until > now);
        before - self.kept.len()
    }

    /// All that is believed to be there.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.beside(self.listed.values().map(|listed| listed.instance.clone()))
    }

    /// A list of the registry's, with those beside it that are kept.
    pub(super) fn beside(&self, listed: impl IntoIterator<Item = Instance>) -> Snapshot {
        let mut all = by_id(listed);
        let mut kept = Vec::new();
        for (id, (listed, _)) in &self.kept {
            all.entry(id.clone()).or_insert_with(|| {
                kept.push(id.clone());
                listed.instance.clone()
            });
        }
        let snapshot = Snapshot::of(all.into_values().collect());
        match kept.is_empty() {
            true => snapshot,
            false => snapshot.with_source(Source::Protected { kept }),
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

fn by_id(instances: impl IntoIterator<Item = Instance>) -> BTreeMap<String, Instance> {
    instances.into_iter().map(|instance| (instance.id().to_owned(), instance)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(300);

    fn list(ids: &[&str]) -> Update {
        let instance = |id: &&str| Instance::new("svc", "tcp://h:1").with_id(*id);
        Update { instances: ids.iter().map(instance).collect(), ..Update::default() }
    }

    fn roster(ids: &[&str], now: Instant) -> Roster {
        let mut roster = Roster::new(Protection::default());
        roster.take(list(ids), now);
        roster
    }

    fn ids(roster: &Roster) -> Vec<String> {
        roster.snapshot().iter().map(|instance| instance.id().to_owned()).collect()
    }

    #[test]
    fn an_empty_list_after_a_fault_keeps_the_last_good_one_for_a_while() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b"], now);
        roster.fault();
        assert_eq!(roster.take(list(&[]), now), 2);
        assert_eq!(ids(&roster), ["a", "b"]);
        let source = Source::Protected { kept: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(roster.snapshot().source, source);
        assert_eq!(roster.due(), Some(now + HOLD));
        assert_eq!(roster.release(now + HOLD), 2);
        assert!(ids(&roster).is_empty() && roster.snapshot().is_current());
    }

    #[test]
    fn those_who_register_again_after_a_fault_are_told_from_those_who_are_kept() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b", "c"], now);
        roster.fault();
        roster.take(list(&[]), now);
        roster.take(list(&["b"]), now + Duration::from_secs(1));
        assert_eq!(ids(&roster), ["a", "b", "c"]);
        let source = Source::Protected { kept: vec!["a".to_owned(), "c".to_owned()] };
        assert_eq!(roster.snapshot().source, source);
        roster.take(list(&["a", "b", "c"]), now + Duration::from_secs(2));
        assert!(roster.snapshot().is_current());
    }

    #[test]
    fn a_few_that_are_missing_after_a_fault_are_believed_to_be_gone() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b", "c", "d", "e"], now);
        roster.fault();
        assert_eq!(roster.take(list(&["a", "b", "c"]), now), 0);
        assert_eq!(ids(&roster), ["a", "b", "c"]);
    }

    #[test]
    fn an_orderly_departure_of_all_is_believed_at_once_even_after_a_fault() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b", "c", "d"], now);
        roster.fault();
        let departed = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(roster.take(Update { departed, ..list(&[]) }, now), 0);
        assert!(ids(&roster).is_empty());
    }

    #[test]
    fn those_who_left_in_order_do_not_hide_that_all_others_are_missing() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b", "c", "d", "e"], now);
        roster.fault();
        let departed = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(roster.take(Update { departed, ..list(&[]) }, now), 2);
        assert_eq!(ids(&roster), ["d", "e"]);
    }

    #[test]
    fn one_who_is_kept_and_then_leaves_in_order_is_gone() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b"], now);
        roster.fault();
        roster.take(list(&[]), now);
        roster.take(Update { departed: vec!["a".to_owned()], ..list(&[]) }, now);
        assert_eq!(ids(&roster), ["b"]);
    }

    #[test]
    fn a_crash_without_a_fault_of_the_registry_is_believed_even_of_the_last_one() {
        let now = Instant::now();
        let mut roster = roster(&["a"], now);
        assert_eq!(roster.take(list(&[]), now), 0);
        assert!(ids(&roster).is_empty());
    }

    #[test]
    fn a_mass_of_lapses_is_not_believed_even_if_they_come_one_by_one() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b", "c", "d", "e"], now);
        roster.take(list(&["a", "b", "c", "d"]), now);
        roster.take(list(&["a", "b", "c"]), now + Duration::from_secs(1));
        assert_eq!(ids(&roster), ["a", "b", "c"], "two crashes");
        assert_eq!(roster.take(list(&["a", "b"]), now + Duration::from_secs(2)), 3);
        assert_eq!(ids(&roster), ["a", "b", "c", "d", "e"], "a mass, of which two were believed");
    }

    #[test]
    fn crashes_that_are_far_apart_are_no_mass() {
        let now = Instant::now();
        let mut roster = roster(&["a", "b", "c", "d"], now);
        for (n, left) in [&["a", "b", "c"][..], &["a", "b"], &["a"], &[]].iter().enumerate() {
            roster.take(list(left), now + Duration::from_secs(60) * n as u32);
        }
        assert!(ids(&roster).is_empty());
    }

    #[test]
    fn without_protection_everything_is_believed() {
        let now = Instant::now();
        let mut roster = Roster::new(Protection::off());
        roster.take(list(&["a", "b", "c", "d"]), now);
        roster.fault();
        assert_eq!(roster.take(list(&[]), now), 0);
        assert!(ids(&roster).is_empty());
    }

    #[test]
    fn a_mass_that_comes_and_vanishes_is_not_kept_instead_of_those_that_were_there_before() {
        let now = Instant::now();
        let mut roster = Roster::new(Protection::default().with_max_kept(4));
        roster.take(list(&["x", "y", "z"]), now);
        let fakes: Vec<_> = (0..100).map(|n| format!("fake-{n:03}")).collect();
        let mut all: Vec<_> = fakes.iter().map(String::as_str).collect();
        all.extend(["x", "y", "z"]);
        roster.take(list(&all), now + Duration::from_secs(60));
        assert_eq!(roster.take(list(&[]), now + Duration::from_secs(120)), 4);
        assert_eq!(ids(&roster), ["fake-000", "x", "y", "z"]);
        // The same maximum holds for instances that lapse later.
        roster.take(list(&all), now + Duration::from_secs(121));
        roster.take(list(&[]), now + Duration::from_secs(122));
        assert_eq!(ids(&roster), ["fake-000", "x", "y", "z"], "as old as they were");
    }

    #[test]
    fn large_instances_that_come_and_vanish_take_no_more_memory_than_is_stated() {
        let now = Instant::now();
        let value = "v".repeat(4096);
        let large = |id: String| {
            let it = Instance::new("svc", "tcp://h:1").with_id(id);
            (0..64).fold(it, |it, key| it.with_metadata(key.to_string(), &value))
        };
        let mut roster = Roster::new(Protection::default());
        roster.take(list(&["x", "y", "z"]), now);
        for round in 1..10 {
            let now = now + Duration::from_secs(round);
            let mut instances: Vec<_> = (0..100).map(|n| large(format!("{round}-{n}"))).collect();
            instances.extend(list(&["x", "y", "z"]).instances);
            roster.take(Update { instances, ..Update::default() }, now);
            // Once without a mass, so that they are only remembered as lapsed.
            roster.protection.percent = if round % 2 == 0 { 100 } else { 50 };
            roster.take(list(&[]), now);
            let lapsed = roster.lapsed.iter().map(|(_, lapsed)| lapsed.instance.footprint());
            assert!(lapsed.sum::<usize>() <= MAX_BYTES);
        }
        let kept = roster.kept.values().map(|(kept, _)| kept.instance.footprint());
        assert!(kept.sum::<usize>() <= MAX_BYTES);
        assert!(["x", "y", "z"].iter().all(|id| roster.kept.contains_key(*id)));
    }

    #[test]
    fn what_was_remembered_counts_as_known() {
        let now = Instant::now();
        let mut roster = Roster::new(Protection::default());
        roster.remember(list(&["a"]).instances);
        roster.fault();
        roster.take(list(&[]), now);
        assert_eq!(ids(&roster), ["a"]);
    }
}
