//! [`TableState`]: the content of a name server's table, which is changed under the lock of the
//! table.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map};
use std::sync::Arc;

use rpc_runtime::RpcError;
use tokio::sync::oneshot;

use super::accounts::{Accounts, Charge, LIST_BYTES};
use super::audit::Action;
use super::checked_registration::CheckedRegistration;
use super::identity::{Caller, Identity};
use super::leases::SessionLease;
use super::service_record::{Departure, ServiceRecord};
use super::stored_registration::{Key, StoredRegistration};
use crate::contract::{NameError, Why};

/// Maximum stored departures of all services, for followers that have not received them.
pub(super) const DEPARTURES: usize = 65_536;
/// Maximum registrations of one service.
const MAX_LISTED: usize = 50_000;

#[derive(Default)]
pub(super) struct TableState {
    pub(super) sessions: HashMap<u64, Session>,
    pub(super) services: BTreeMap<String, ServiceRecord>,
    /// The number of the last attendance.
    pub(super) attendances: u64,
    /// The services of the stored departures, the oldest first.
    pub(super) departures: VecDeque<String>,
    /// The approximate memory of the content.
    pub(super) bytes: usize,
    /// The use of each client.
    pub(super) accounts: Accounts,
    /// Whether the server is stopping.
    pub(super) closed: bool,
}

pub(super) struct Session {
    pub(super) lease: Arc<SessionLease>,
    /// The number of the current attendance.
    pub(super) attendance: u64,
    /// Whether all registrations were received in this attendance.
    pub(super) whole: bool,
    pub(super) owned: BTreeSet<Key>,
    /// The client that owns the session.
    pub(super) identity: Arc<Identity>,
    /// Its proof of identity, to be checked against a new policy.
    pub(super) caller: Caller,
    /// Dropped when the session ends or continues on another connection.
    pub(super) _attended: oneshot::Sender<()>,
}

/// A session that has ended. Its registrations are still to be removed.
pub(super) struct EndedSession {
    pub(super) session: u64,
    pub(super) lease: Arc<SessionLease>,
    pub(super) identity: Arc<Identity>,
    /// The number of its last attendance.
    pub(super) attendance: u64,
    pub(super) owned: BTreeSet<Key>,
}

impl TableState {
    pub(super) fn check_open(&self) -> Result<(), NameError> {
        match self.closed {
            true => Err(RpcError::unavailable("the name server is stopping").into()),
            false => Ok(()),
        }
    }

    /// Charges a client and counts the memory.
    pub(super) fn charge(
        &mut self,
        by: &Identity,
        item: Charge<'_>,
        bytes: usize,
        limit: usize,
    ) -> Result<(), String> {
        let sum = self.bytes.saturating_add(bytes);
        if sum > limit {
            return Err(format!("the name server keeps no more than {limit} bytes"));
        }
        self.accounts.charge(by, item, bytes)?;
        self.bytes = sum;
        Ok(())
    }

    pub(super) fn refund(&mut self, by: &Identity, item: Charge<'_>, bytes: usize) {
        self.accounts.refund(by, item, bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The session, if it belongs to this client.
    pub(super) fn session(&self, session: u64, by: &Identity) -> Result<&Session, NameError> {
        let found = self.sessions.get(&session);
        // The existence of another client's session is not revealed.
        found.filter(|it| it.identity.name == by.name).ok_or(NameError::NoSession)
    }

    /// The caller must [`publish`](Self::publish) then. Returns the action for the audit; `None` if
    /// the registration existed before.
    pub(super) fn register(
        &mut self,
        session: u64,
        attendance: u64,
        by: &Arc<Identity>,
        registration: CheckedRegistration,
        max_bytes: usize,
    ) -> Result<Option<Action>, (Why, String)> {
        let CheckedRegistration { service, id, epoch, packed, new, secret, bytes } = registration;
        let listed = self.services.get(&service);
        let known = listed.and_then(|listed| listed.entries.get(&id)).cloned();
        if let Some(known) = &known {
            let is_own = known.session == session;
            let may_replace = match is_own {
                true => epoch >= known.epoch,
                false if self.is_left(&service, known) => true,
                false => !new && epoch > known.epoch && known.belongs_to(by, secret),
            };
            if !may_replace {
                let message = format!(
                    "the instance {id:?} of {service:?} is registered with the epoch {}, and alive",
                    known.epoch
                );
                return Err((Why::Taken, message));
            }
        }
        let full = |what: String| (Why::Full, what);
        if let Some(listed) = listed {
            let freed = known.as_ref().map_or(0, |known| known.packed.len());
            let listed_bytes = listed.entries.listed_bytes().saturating_sub(freed);
            if known.is_none() && listed.entries.len() >= MAX_LISTED {
                return Err(full(format!("{service:?} has {MAX_LISTED} instances")));
            }
            if listed_bytes.saturating_add(packed.len()) > LIST_BYTES {
                return Err(full(format!("the list of {service:?} has {LIST_BYTES} bytes")));
            }
        }
        // The replaced registration is refunded first, so that a full server accepts the same
        // registrations again.
        if let Some(known) = &known {
            self.refund(&known.identity, known.item(&service), known.bytes);
        }
        let item = Charge::Instance(&service, packed.len());
        if let Err(message) = self.charge(by, item, bytes, max_bytes) {
            if let Some(known) = &known {
                // There was room for it before.
                let _ = self.charge(&known.identity, known.item(&service), known.bytes, usize::MAX);
            }
            return Err(full(message));
        }
        let action = match &known {
            None => Some(Action::Register),
            Some(known) if known.session == session && known.epoch == epoch => None,
            Some(_) => Some(Action::Replace),
        };
        let listed = self.services.entry(service.clone()).or_default();
        let change = listed.next_change();
        listed.entries.insert(Arc::new(StoredRegistration {
            id: Arc::clone(&id),
            epoch,
            packed,
            change,
            session,
            attendance,
            secret,
            identity: Arc::clone(by),
            bytes,
        }));
        let key = (service, id);
        if let Some(replaced) = known.filter(|it| it.session != session)
            && let Some(loser) = self.sessions.get_mut(&replaced.session)
        {
            loser.owned.remove(&key);
            // At its next renewal, its provider sends all registrations again, and this one is
            // refused.
            loser.lease.set_version(0);
        }
        if let Some(owner) = self.sessions.get_mut(&session) {
            owner.owned.insert(key);
        }
        Ok(action)
    }

    /// Whether its session has ended and the registration is still to be removed.
    fn is_left(&self, service: &str, entry: &StoredRegistration) -> bool {
        let key = (service.to_owned(), Arc::clone(&entry.id));
        self.sessions.get(&entry.session).is_none_or(|session| !session.owned.contains(&key))
    }

    /// Removes a registration if `which` matches it. The caller must [`publish`](Self::publish)
    /// then.
    pub(super) fn remove(
        &mut self,
        service: &str,
        id: &str,
        left: Departure,
        which: impl FnOnce(&StoredRegistration) -> bool,
    ) -> bool {
        let Some(listed) = self.services.get_mut(service) else { return false };
        if !listed.entries.get(id).is_some_and(|entry| which(entry)) {
            return false;
        }
        let Some(removed) = listed.entries.remove(id) else { return false };
        if left == Departure::InOrder && listed.depart(&removed.id) {
            self.departures.push_back(service.to_owned());
        }
        self.refund(&removed.identity, removed.item(service), removed.bytes);
        if let Some(owner) = self.sessions.get_mut(&removed.session) {
            owner.owned.remove(&(service.to_owned(), Arc::clone(&removed.id)));
        }
        if self.departures.len() > DEPARTURES
            && let Some(oldest) = self.departures.pop_front()
            && let Some(listed) = self.services.get_mut(&oldest)
        {
            listed.forget_one();
        }
        true
    }

    /// All registrations of the session were received. Returns the keys among which registrations
    /// of an earlier attendance are to be removed.
    pub(super) fn complete(&mut self, session: u64) -> Vec<Key> {
        match self.sessions.get_mut(&session).filter(|it| !it.whole) {
            Some(it) => {
                it.whole = true;
                it.owned.iter().cloned().collect()
            }
            None => Vec::new(),
        }
    }

    pub(super) fn end_session(&mut self, session: u64) -> Option<EndedSession> {
        let it = self.sessions.remove(&session)?;
        self.refund(&it.identity, Charge::Session, it.identity.bytes);
        Some(EndedSession {
            session,
            lease: it.lease,
            identity: it.identity,
            attendance: it.attendance,
            owned: it.owned,
        })
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
