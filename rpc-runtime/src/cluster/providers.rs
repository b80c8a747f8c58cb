//! [`Providers`]: applies a registry's lists to the addresses and endpoints of a client.

use std::collections::HashSet;
use std::sync::Arc;

use rpc_registry::Instance;

use super::addresses::{Addresses, Rank, Reachability};
use super::rejected::{Reason, Rejected, scheme};
use super::subset::Subset;
use super::turn::{CHANGED, Turn, UNCHANGED};
use crate::client::{DiscoverySettings, Endpoint, EndpointSettings};
use crate::descriptor::ServiceKey;

/// The instances of a service, as the registry's last list has them, and the endpoints in use.
///
/// A list is compared with the last one, instance by instance. Unchanged instances share their
/// memory, so one costs a comparison of pointers. Beyond that, the work is proportional to what has
/// changed. It holds no lock and yields to other tasks.
pub(super) struct Providers {
    service: ServiceKey,
    schemes: Vec<&'static str>,
    max_instances: usize,
    subset: Subset,
    addresses: Addresses,
    list: Arc<[Instance]>,
    /// One for each instance of the list.
    verdicts: Vec<Verdict>,
    rejected: Arc<Rejected>,
}

/// What was decided about an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It counts as a registration of its address.
    Followed,
    /// The contract or the client's settings do not allow it.
    Rejected,
    /// There are too many instances.
    OverLimit,
}

/// The result of applying a list.
pub(super) struct ListUpdate {
    /// The endpoints in use, in the order of the client. `None`: unchanged.
    pub(super) endpoints: Option<Arc<[Arc<Endpoint>]>>,
    /// Endpoints of remaining addresses with a new registration.
    pub(super) announced: Vec<Arc<Endpoint>>,
    /// Endpoints that are no longer in use.
    pub(super) retired: Vec<Arc<Endpoint>>,
    pub(super) rejected: Arc<Rejected>,
}

impl Providers {
    pub(super) fn new(
        service: ServiceKey,
        schemes: Vec<&'static str>,
        discovery: &DiscoverySettings,
        settings: Arc<EndpointSettings>,
    ) -> Self {
        Self {
            service,
            schemes,
            max_instances: discovery.max_providers,
            subset: Subset::new(discovery.subset),
            addresses: Addresses::new(settings),
            list: Arc::new([]),
            verdicts: Vec::new(),
            rejected: Arc::default(),
        }
    }

    pub(super) fn settings(&self) -> &Arc<EndpointSettings> {
        self.addresses.settings()
    }

    /// Whether the client uses a subset of the addresses.
    pub(super) fn has_subset(&self) -> bool {
        self.subset.is_in_effect()
    }

    /// Applies a complete list, ordered by id. Endpoints of addresses that stay are kept.
    ///
    /// Of a list that is too long, instances that are followed and unchanged stay; each other known
    /// address keeps one registration; the room that is left goes to the others in the order of the
    /// list. So neither new registrations nor many registrations of one address displace known
    /// providers.
    ///
    /// Not cancel safe: the list is applied in part.
    pub(super) async fn apply(&mut self, list: &Arc<[Instance]>) -> ListUpdate {
        let turn = &mut Turn::default();
        let before = std::mem::replace(&mut self.list, Arc::clone(list));
        let difference = self.compare(&before, list, turn).await;
        let mut vacated = Vec::with_capacity(difference.left.len());
        for instance in &difference.left {
            turn.work(CHANGED).await;
            if let Ok(rank) = self.addresses.rank(instance.uri()) {
                self.addresses.unregister(&rank);
                vacated.push(rank);
            }
        }
        let (is_outdated, announced) = self.admit(difference, turn).await;
        if is_outdated {
            self.rejected = Arc::new(self.rejected(list, turn).await);
        }
        let mut retired = Vec::new();
        for rank in &vacated {
            turn.work(CHANGED).await;
            retired.extend(self.addresses.remove(rank));
        }
        let mut update = self.assign(turn).await;
        update.announced = announced;
        update.retired.append(&mut retired);
        update
    }

    /// Selects the addresses in use again, after their reachability may have changed.
    pub(super) async fn review(&mut self) -> ListUpdate {
        self.assign(&mut Turn::default()).await
    }

    async fn assign(&mut self, turn: &mut Turn) -> ListUpdate {
        // Only a subset depends on it, and looking at all addresses would take long.
        let reachability = match self.subset.is_in_effect() {
            true => self.addresses.reachability(),
            false => Reachability::default(),
        };
        let size = self.subset.size(self.addresses.len(), reachability);
        let assigned = self.addresses.assign(size, self.subset.connected(), turn).await;
        let (endpoints, retired) = match assigned {
            Some(assigned) => (Some(assigned.endpoints), assigned.retired),
            None => (None, Vec::new()),
        };
        ListUpdate {
            endpoints,
            announced: Vec::new(),
            retired,
            rejected: Arc::clone(&self.rejected),
        }
    }

    /// Compares two lists. What is followed and unchanged keeps its verdict.
    async fn compare<'l>(
        &mut self,
        before: &'l [Instance],
        after: &'l [Instance],
        turn: &mut Turn,
    ) -> Difference<'l> {
        let verdicts = std::mem::take(&mut self.verdicts);
        let mut before = before.iter().zip(verdicts).peekable();
        let mut difference = Difference::default();
        self.verdicts.reserve_exact(after.len());
        for (position, instance) in after.iter().enumerate() {
            turn.work(UNCHANGED).await;
            let comes_first = |known: &Instance| known != instance && known.id() < instance.id();
            while let Some((known, verdict)) = before.next_if(|(known, _)| comes_first(known)) {
                difference.leave(known, verdict);
            }
            let unchanged = before.next_if(|(known, _)| *known == instance);
            let verdict = match unchanged {
                Some((_, Verdict::Followed)) => {
                    difference.unchanged = difference.unchanged.saturating_add(1);
                    Verdict::Followed
                }
                Some((_, Verdict::Rejected)) => Verdict::Rejected,
                Some((_, Verdict::OverLimit)) | None => {
                    difference.is_outdated |= unchanged.is_some();
                    difference.undecided.push((position, instance));
                    Verdict::Rejected
                }
            };
            self.verdicts.push(verdict);
        }
        before.for_each(|(known, verdict)| difference.leave(known, verdict));
        difference
    }

    /// Decides about instances. Returns whether others are not followed than before, and the
    /// endpoints of known addresses with new registrations.
    async fn admit(
        &mut self,
        difference: Difference<'_>,
        turn: &mut Turn,
    ) -> (bool, Vec<Arc<Endpoint>>) {
        let Difference { undecided, left, unchanged, mut is_outdated } = difference;
        let mut known = HashSet::with_capacity(left.len());
        for instance in left {
            turn.work(CHANGED).await;
            known.insert(registration(instance));
        }
        let room = self.max_instances.saturating_sub(unchanged);
        let mut admission = Admission { room, known, announced: Vec::new() };
        let mut waiting = Vec::new();
        for (position, instance) in undecided {
            turn.work(CHANGED).await;
            match self.rank(instance) {
                Ok(rank) if self.addresses.is_vacant(&rank) => {
                    self.follow(position, instance, rank, &mut admission);
                }
                Ok(rank) => waiting.push((position, instance, rank)),
                Err(_) => is_outdated = true,
            }
        }
        for (position, instance, rank) in waiting {
            turn.work(CHANGED).await;
            if admission.room > 0 {
                self.follow(position, instance, rank, &mut admission);
            } else {
                is_outdated = true;
                self.decide(position, Verdict::OverLimit);
            }
        }
        (is_outdated, admission.announced)
    }

    /// Counts an instance as a registration of its address.
    fn follow(
        &mut self,
        position: usize,
        instance: &Instance,
        rank: Rank,
        admission: &mut Admission<'_>,
    ) {
        self.decide(position, Verdict::Followed);
        admission.room = admission.room.saturating_sub(1);
        let endpoint = self.addresses.register(rank);
        if !admission.known.contains(&registration(instance)) {
            admission.announced.extend(endpoint);
        }
    }

    fn decide(&mut self, position: usize, verdict: Verdict) {
        if let Some(decided) = self.verdicts.get_mut(position) {
            *decided = verdict;
        }
    }

    /// The place of an instance's address.
    ///
    /// # Errors
    /// The contract or the client's settings do not allow calls to the instance.
    fn rank(&self, instance: &Instance) -> Result<Rank, Reason> {
        if !self.service.accepts(instance.version(), instance.group()) {
            return Err(Reason::Version);
        }
        let scheme = scheme(instance);
        // For an unknown scheme, the error of a connection attempt says more.
        let is_known = crate::transport::SCHEMES.iter().any(|(known, _)| *known == scheme);
        if is_known && !self.schemes.contains(&scheme) {
            return Err(Reason::Scheme);
        }
        self.addresses.rank(instance.uri()).map_err(Reason::Address)
    }

    /// The instances of the list that are not followed.
    async fn rejected(&self, list: &[Instance], turn: &mut Turn) -> Rejected {
        let mut rejected = Rejected::default();
        for (instance, verdict) in list.iter().zip(&self.verdicts) {
            match verdict {
                Verdict::Followed => turn.work(UNCHANGED).await,
                Verdict::OverLimit => rejected.over_limit = rejected.over_limit.saturating_add(1),
                Verdict::Rejected => {
                    turn.work(CHANGED).await;
                    if let Err(reason) = self.rank(instance) {
                        rejected.add(instance, &reason);
                    }
                }
            }
        }
        rejected
    }
}

/// What differs between two lists.
#[derive(Default)]
struct Difference<'l> {
    /// Instances to decide about, with their positions in the new list.
    undecided: Vec<(usize, &'l Instance)>,
    /// Instances of the old list that were followed, and have left or changed.
    left: Vec<&'l Instance>,
    /// How many instances are followed and unchanged.
    unchanged: usize,
    /// Instances that were not followed have left, or may be followed now.
    is_outdated: bool,
}

impl<'l> Difference<'l> {
    fn leave(&mut self, instance: &'l Instance, verdict: Verdict) {
        match verdict {
            Verdict::Followed => self.left.push(instance),
            Verdict::Rejected | Verdict::OverLimit => self.is_outdated = true,
        }
    }
}

/// What is known while instances are decided about.
struct Admission<'l> {
    /// How many more are followed.
    room: usize,
    /// Registrations of the old list that are no longer there as they were.
    known: HashSet<Registration<'l>>,
    announced: Vec<Arc<Endpoint>>,
}

/// What distinguishes registrations: the address, the id, the epoch, the start.
type Registration<'i> = (&'i str, &'i str, u64, u64);

fn registration(instance: &Instance) -> Registration<'_> {
    (instance.uri(), instance.id(), instance.epoch(), instance.started_ms())
}

#[cfg(test)]
#[path = "providers_tests.rs"]
mod tests;
