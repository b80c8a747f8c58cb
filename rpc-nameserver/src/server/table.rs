//! [`Table`]: who is registered at a name server, and by which session. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_registry::Instance;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::leases::{Lease, Leases};
use super::listed::{Left, Listed};
use crate::contract::{Change, Listing, NameError, Refusal, Why};

/// What an entry takes beside its text, roughly: those of maps and sets.
const ENTRY_BYTES: usize = 512;
/// Departures that are remembered, of all services, for followers that have not heard of them.
const DEPARTURES: usize = 65_536;
/// What a session or a service that is followed takes, roughly.
const FIXED_BYTES: usize = 2048;

pub(super) struct Table {
    pub(super) leases: Leases,
    state: Mutex<State>,
    /// Until then nobody knows who will still register.
    started: Instant,
    max_bytes: usize,
}

struct State {
    sessions: HashMap<u64, Session>,
    services: BTreeMap<String, Listed>,
    /// The number of the last one that began to attend.
    attendances: u64,
    /// The services of the departures that are remembered, the oldest first.
    departures: VecDeque<String>,
    /// All that is kept, roughly.
    bytes: usize,
    /// Nothing more is taken.
    closed: bool,
}

struct Session {
    lease: Arc<Lease>,
    /// Which of the session's connections it is that counts.
    attendance: u64,
    /// Whether all is told that belongs to the session in this attendance.
    whole: bool,
    /// Service and id.
    owned: BTreeSet<(String, String)>,
    /// Dropped when the session ends, or goes on by another connection.
    _attended: oneshot::Sender<()>,
}

impl Table {
    /// With what is kept for `max_bytes`, roughly, at most.
    pub(super) fn new(grace: Duration, max_bytes: usize) -> Self {
        let state = State {
            sessions: HashMap::new(),
            services: BTreeMap::new(),
            attendances: 0,
            departures: VecDeque::new(),
            bytes: 0,
            closed: false,
        };
        let now = Instant::now();
        let started = now.checked_add(grace).unwrap_or(now);
        Self { leases: Leases::new(), state: Mutex::new(state), started, max_bytes }
    }

    /// Every change under this lock is made in one piece, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the server must not yet say that nobody is there.
    fn starting(&self) -> Option<Duration> {
        let left = self.started.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Begins a session, or takes it over. Returns the number of this attendance, and what is
    /// dropped when it is over.
    pub(super) fn attend(
        &self,
        session: u64,
        expiry: Duration,
    ) -> Result<(u64, oneshot::Receiver<()>), NameError> {
        let mut state = self.lock();
        state.check_open()?;
        let owned = match state.sessions.remove(&session) {
            Some(before) => before.owned,
            None => {
                state.take_bytes(FIXED_BYTES, self.max_bytes).map_err(NameError::Full)?;
                BTreeSet::new()
            }
        };
        let lease = self.leases.begin(session, expiry);
        state.attendances = state.attendances.wrapping_add(1);
        let attendance = state.attendances;
        let (_attended, over) = oneshot::channel();
        let it = Session { lease, attendance, whole: false, owned, _attended };
        state.sessions.insert(session, it);
        Ok((attendance, over))
    }

    /// The connection of this attendance is gone.
    pub(super) fn leave(&self, session: u64, attendance: u64) {
        let mut state = self.lock();
        if state.sessions.get(&session).is_some_and(|it| it.attendance == attendance)
            && let Some(lease) = state.end_session(session)
        {
            self.leases.end(session, &lease);
        }
    }

    /// Removes the sessions that were not heard of for too long. Says how many.
    pub(super) fn expire(&self) -> usize {
        let expired = self.leases.take_expired();
        if expired.is_empty() {
            return 0;
        }
        let mut state = self.lock();
        for (session, lease) in &expired {
            if state.sessions.get(session).is_some_and(|it| Arc::ptr_eq(&it.lease, lease)) {
                state.end_session(*session);
            }
        }
        expired.len()
    }

    /// Makes the changes of a session.
    pub(super) fn report(
        &self,
        session: u64,
        version: u64,
        changes: Vec<Change>,
    ) -> Result<Vec<Refusal>, NameError> {
        let mut state = self.lock();
        state.check_open()?;
        let state = &mut *state;
        let attendance = state.sessions.get(&session).ok_or(NameError::NoSession)?.attendance;
        let mut changed = BTreeSet::new();
        let mut refusals = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            let service = match change {
                Change::Register { instance, new } => {
                    let service = instance.service().to_owned();
                    match state.register(session, attendance, instance, new, self.max_bytes) {
                        Ok(()) => service,
                        Err((why, message)) => {
                            let index = u32::try_from(index).unwrap_or(u32::MAX);
                            refusals.push(Refusal { index, why, message });
                            continue;
                        }
                    }
                }
                Change::Unregister { service, id, epoch } => {
                    let is_own =
                        |entry: &Entry| entry.session == session && entry.instance.epoch() == epoch;
                    if !state.remove(&service, &id, Left::InOrder, is_own) {
                        continue;
                    }
                    service
                }
            };
            changed.insert(service);
        }
        if version != 0 {
            changed.extend(state.complete(session, attendance));
        }
        if let Some(it) = state.sessions.get(&session) {
            it.lease.set_version(version);
        }
        changed.iter().for_each(|service| state.publish(service));
        Ok(refusals)
    }

    pub(super) fn lookup(&self, service: &str) -> Result<Listing, NameError> {
        let mut state = self.lock();
        state.check_open()?;
        match (state.services.get_mut(service), self.starting()) {
            (Some(listed), _) if !listed.entries.is_empty() => listed.listing(None),
            (_, Some(left)) => Err(is_starting(left)),
            (_, None) => Listed::default().listing(None),
        }
    }

    pub(super) fn services(&self) -> Result<Vec<String>, NameError> {
        let state = self.lock();
        state.check_open()?;
        let known = state.services.iter().filter(|(_, listed)| !listed.entries.is_empty());
        let names: Vec<_> = known.map(|(name, _)| name.clone()).collect();
        match self.starting() {
            Some(left) if names.is_empty() => Err(is_starting(left)),
            _ => Ok(names),
        }
    }

    /// Removes a registration of any session.
    pub(super) fn remove(&self, service: &str, id: &str) -> Result<bool, NameError> {
        let mut state = self.lock();
        state.check_open()?;
        let removed = state.remove(service, id, Left::InOrder, |_| true);
        if removed {
            state.publish(service);
        }
        Ok(removed)
    }

    /// Begins to follow a service: the number of each change is seen by what is returned.
    /// [`unfollow`](Self::unfollow) must follow.
    pub(super) fn follow(&self, service: &str) -> Result<watch::Receiver<u64>, NameError> {
        let mut state = self.lock();
        state.check_open()?;
        let is_known = state.services.get(service).is_some_and(|listed| !listed.entries.is_empty());
        match self.starting() {
            Some(left) if !is_known => return Err(is_starting(left)),
            _ => {}
        }
        state.take_bytes(FIXED_BYTES, self.max_bytes).map_err(NameError::Full)?;
        Ok(state.services.entry(service.to_owned()).or_default().changes.subscribe())
    }

    /// The receiver that `follow` returned is dropped.
    pub(super) fn unfollow(&self, service: &str) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(FIXED_BYTES);
        state.drop_unused(service);
    }

    /// What a follower is to be told that has seen the change `seen`, or nothing.
    pub(super) fn listing(&self, service: &str, seen: Option<u64>) -> Result<Listing, NameError> {
        let mut state = self.lock();
        state.check_open()?;
        match state.services.get_mut(service) {
            Some(listed) => listed.listing(seen),
            None => Listed::default().listing(None),
        }
    }

    /// Ends all sessions and all that is followed; nothing more is taken.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.sessions.clear();
        state.services.clear();
    }
}

fn is_starting(left: Duration) -> NameError {
    NameError::Starting { left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1) }
}

/// A registration.
pub(super) struct Entry {
    pub(super) instance: Instance,
    session: u64,
    attendance: u64,
    bytes: usize,
}

impl State {
    fn check_open(&self) -> Result<(), NameError> {
        match self.closed {
            true => Err(rpc_runtime::RpcError::unavailable("the name server is stopping").into()),
            false => Ok(()),
        }
    }

    fn take_bytes(&mut self, bytes: usize, limit: usize) -> Result<(), String> {
        let sum = self.bytes.saturating_add(bytes);
        if sum > limit {
            return Err(format!("the name server keeps no more than {limit} bytes"));
        }
        self.bytes = sum;
        Ok(())
    }

    fn register(
        &mut self,
        session: u64,
        attendance: u64,
        instance: Instance,
        new: bool,
        max_bytes: usize,
    ) -> Result<(), (Why, String)> {
        instance.validate().map_err(|error| (Why::Invalid, error.to_string()))?;
        let (service, id) = (instance.service().to_owned(), instance.id().to_owned());
        let known = self.services.get(&service).and_then(|listed| listed.entries.get(&id));
        if let Some(known) = known {
            let is_own = known.session == session;
            let replaces = match is_own {
                true => instance.epoch() >= known.instance.epoch(),
                false => !new && instance.epoch() > known.instance.epoch(),
            };
            if !replaces {
                let message = format!(
                    "the instance {id:?} of {service:?} is registered with the epoch {}, and alive",
                    known.instance.epoch()
                );
                return Err((Why::Taken, message));
            }
        }
        let bytes = bytes_of(&instance);
        self.take_bytes(bytes, max_bytes).map_err(|message| (Why::Full, message))?;
        let entry = Entry { instance, session, attendance, bytes };
        let listed = self.services.entry(service.clone()).or_default();
        if let Some(replaced) = listed.insert(entry) {
            self.bytes = self.bytes.saturating_sub(replaced.bytes);
            if replaced.session != session {
                self.disown(replaced.session, &service, &id);
                // At its next renewal it tells all, and hears who has this one.
                if let Some(loser) = self.sessions.get(&replaced.session) {
                    loser.lease.set_version(0);
                }
            }
        }
        if let Some(owner) = self.sessions.get_mut(&session) {
            owner.owned.insert((service, id));
        }
        Ok(())
    }

    fn disown(&mut self, session: u64, service: &str, id: &str) {
        if let Some(owner) = self.sessions.get_mut(&session) {
            owner.owned.remove(&(service.to_owned(), id.to_owned()));
        }
    }

    /// Removes an entry if it is such a one. [`publish`](Self::publish) must follow.
    fn remove(
        &mut self,
        service: &str,
        id: &str,
        left: Left,
        which: impl FnOnce(&Entry) -> bool,
    ) -> bool {
        let Some(listed) = self.services.get_mut(service) else { return false };
        if !listed.entries.get(id).is_some_and(which) {
            return false;
        }
        if left == Left::InOrder && listed.depart(id) {
            self.departures.push_back(service.to_owned());
        }
        if let Some(removed) = listed.remove(id) {
            self.bytes = self.bytes.saturating_sub(removed.bytes);
            self.disown(removed.session, service, id);
        }
        if self.departures.len() > DEPARTURES
            && let Some(oldest) = self.departures.pop_front()
            && let Some(listed) = self.services.get_mut(&oldest)
        {
            listed.forget_one();
        }
        true
    }

    /// All is told that belongs to the session: what is left of an earlier attendance has been taken
    /// back meanwhile. Returns the services that are changed by that.
    fn complete(&mut self, session: u64, attendance: u64) -> BTreeSet<String> {
        let Some(it) = self.sessions.get_mut(&session).filter(|it| !it.whole) else {
            return BTreeSet::new();
        };
        it.whole = true;
        let owned = it.owned.clone();
        let is_stale = |entry: &Entry| entry.session == session && entry.attendance != attendance;
        let stale = owned
            .into_iter()
            .filter(|(service, id)| self.remove(service, id, Left::InOrder, is_stale));
        stale.map(|(service, _)| service).collect()
    }

    fn end_session(&mut self, session: u64) -> Option<Arc<Lease>> {
        let it = self.sessions.remove(&session)?;
        self.bytes = self.bytes.saturating_sub(FIXED_BYTES);
        let mut changed = BTreeSet::new();
        for (service, id) in it.owned {
            // It may be the registry's own fault, so nobody is said to have left.
            self.remove(&service, &id, Left::Lapsed, |entry| entry.session == session);
            changed.insert(service);
        }
        changed.iter().for_each(|service| self.publish(service));
        Some(it.lease)
    }

    fn publish(&mut self, service: &str) {
        if let Some(listed) = self.services.get_mut(service) {
            listed.publish();
        }
        self.drop_unused(service);
    }

    fn drop_unused(&mut self, service: &str) {
        if let btree_map::Entry::Occupied(found) = self.services.entry(service.to_owned())
            && found.get().is_unused()
        {
            found.remove();
        }
    }
}

fn bytes_of(instance: &Instance) -> usize {
    let metadata = instance.metadata().iter();
    let texts = [
        instance.service().len().saturating_mul(3),
        instance.id().len().saturating_mul(3),
        instance.uri().len().saturating_mul(2),
        instance.version().len(),
        instance.group().len(),
        instance.zone().map_or(0, str::len),
    ];
    metadata
        // Once as it is, and once packed.
        .map(|(key, value)| {
            key.len().saturating_add(value.len()).saturating_mul(2).saturating_add(64)
        })
        .chain(texts)
        .fold(ENTRY_BYTES, usize::saturating_add)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
