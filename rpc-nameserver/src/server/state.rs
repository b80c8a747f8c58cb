//! [`State`]: what a name server's table holds, and how it changes. Whoever changes it has locked it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map};
use std::sync::Arc;

use rpc_registry::Instance;
use rpc_runtime::RpcError;
use tokio::sync::oneshot;

use super::leases::Lease;
use super::listed::{Left, Listed};
use crate::contract::{NameError, Why};

/// What an entry takes beside its text, roughly: those of maps and sets.
pub(super) const ENTRY_BYTES: usize = 512;
/// Departures that are remembered, of all services, for followers that have not heard of them.
pub(super) const DEPARTURES: usize = 65_536;
/// What a session or a service that is followed takes, roughly.
pub(super) const FIXED_BYTES: usize = 2048;

#[derive(Default)]
pub(super) struct State {
    pub(super) sessions: HashMap<u64, Session>,
    pub(super) services: BTreeMap<String, Listed>,
    /// The number of the last one that began to attend.
    pub(super) attendances: u64,
    /// The services of the departures that are remembered, the oldest first.
    pub(super) departures: VecDeque<String>,
    /// All that is kept, roughly.
    pub(super) bytes: usize,
    /// Nothing more is taken.
    pub(super) closed: bool,
}

pub(super) struct Session {
    pub(super) lease: Arc<Lease>,
    /// Which of the session's connections it is that counts.
    pub(super) attendance: u64,
    /// Whether all is told that belongs to the session in this attendance.
    pub(super) whole: bool,
    /// Service and id.
    pub(super) owned: BTreeSet<(String, String)>,
    /// Dropped when the session ends, or goes on by another connection.
    pub(super) _attended: oneshot::Sender<()>,
}

/// A registration.
pub(super) struct Entry {
    pub(super) instance: Instance,
    pub(super) session: u64,
    pub(super) attendance: u64,
    pub(super) bytes: usize,
}

impl State {
    pub(super) fn check_open(&self) -> Result<(), NameError> {
        match self.closed {
            true => Err(RpcError::unavailable("the name server is stopping").into()),
            false => Ok(()),
        }
    }

    pub(super) fn take_bytes(&mut self, bytes: usize, limit: usize) -> Result<(), String> {
        let sum = self.bytes.saturating_add(bytes);
        if sum > limit {
            return Err(format!("the name server keeps no more than {limit} bytes"));
        }
        self.bytes = sum;
        Ok(())
    }

    pub(super) fn register(
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
        // What it replaces makes room, so that a full server can be told again what it has.
        let freed = known.map_or(0, |known| known.bytes);
        self.bytes = self.bytes.saturating_sub(freed);
        self.take_bytes(bytes, max_bytes).map_err(|message| {
            self.bytes = self.bytes.saturating_add(freed);
            (Why::Full, message)
        })?;
        let entry = Entry { instance, session, attendance, bytes };
        let listed = self.services.entry(service.clone()).or_default();
        if let Some(replaced) = listed.insert(entry)
            && replaced.session != session
        {
            self.disown(replaced.session, &service, &id);
            // At its next renewal it tells all, and hears who has this one.
            if let Some(loser) = self.sessions.get(&replaced.session) {
                loser.lease.set_version(0);
            }
        }
        if let Some(owner) = self.sessions.get_mut(&session) {
            owner.owned.insert((service, id));
        }
        Ok(())
    }

    pub(super) fn disown(&mut self, session: u64, service: &str, id: &str) {
        if let Some(owner) = self.sessions.get_mut(&session) {
            owner.owned.remove(&(service.to_owned(), id.to_owned()));
        }
    }

    /// Removes an entry if it is such a one. [`publish`](Self::publish) must follow.
    pub(super) fn remove(
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
    pub(super) fn complete(&mut self, session: u64, attendance: u64) -> BTreeSet<String> {
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

    pub(super) fn end_session(&mut self, session: u64) -> Option<Arc<Lease>> {
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

    pub(super) fn publish(&mut self, service: &str) {
        if let Some(listed) = self.services.get_mut(service) {
            listed.publish();
        }
        self.drop_unused(service);
    }

    pub(super) fn drop_unused(&mut self, service: &str) {
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
