//! [`State`]: what a name server's table holds, and how it changes. Whoever changes it has locked it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map};
use std::sync::Arc;

use rpc_runtime::RpcError;
use tokio::sync::oneshot;

use super::audit::Action;
use super::entry::{Entry, Key};
use super::identity::{Caller, Identity};
use super::leases::Lease;
use super::listed::{Left, Listed};
use super::quota::{Accounts, Item, LIST_BYTES};
use super::registration::Registration;
use crate::contract::{NameError, Why};

/// Departures that are remembered, of all services, for followers that have not heard of them.
pub(super) const DEPARTURES: usize = 65_536;
/// Most registrations of one service.
const MAX_LISTED: usize = 50_000;

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
    /// The use of each client.
    pub(super) accounts: Accounts,
    /// Nothing more is taken.
    pub(super) closed: bool,
}

pub(super) struct Session {
    pub(super) lease: Arc<Lease>,
    /// Which of the session's connections it is that counts.
    pub(super) attendance: u64,
    /// Whether all is told that belongs to the session in this attendance.
    pub(super) whole: bool,
    pub(super) owned: BTreeSet<Key>,
    /// Whose it is.
    pub(super) identity: Arc<Identity>,
    /// Its proof of identity, to be checked against a new policy.
    pub(super) caller: Caller,
    /// Dropped when the session ends, or goes on by another connection.
    pub(super) _attended: oneshot::Sender<()>,
}

/// A session that has ended. Its registrations are still to be removed.
pub(super) struct Ended {
    pub(super) session: u64,
    pub(super) lease: Arc<Lease>,
    pub(super) identity: Arc<Identity>,
    /// The last one.
    pub(super) attendance: u64,
    pub(super) owned: BTreeSet<Key>,
}

impl State {
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
        item: Item<'_>,
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

    pub(super) fn refund(&mut self, by: &Identity, item: Item<'_>, bytes: usize) {
        self.accounts.refund(by, item, bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The session, if it belongs to this client.
    pub(super) fn session(&self, session: u64, by: &Identity) -> Result<&Session, NameError> {
        let found = self.sessions.get(&session);
        // The existence of another client's session is not revealed.
        found.filter(|it| it.identity.name == by.name).ok_or(NameError::NoSession)
    }

    /// [`publish`](Self::publish) must follow. Says what that was; nothing if it was there before.
    pub(super) fn register(
        &mut self,
        session: u64,
        attendance: u64,
        by: &Arc<Identity>,
        registration: Registration,
        max_bytes: usize,
    ) -> Result<Option<Action>, (Why, String)> {
        let Registration { service, id, epoch, packed, new, secret, bytes } = registration;
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
        // What it replaces makes room, so that a full server can be told again what it has.
        if let Some(known) = &known {
            self.refund(&known.identity, known.item(&service), known.bytes);
        }
        let item = Item::Instance(&service, packed.len());
        if let Err(message) = self.charge(by, item, bytes, max_bytes) {
            if let Some(known) = &known {
                // It had room a moment ago.
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
        listed.entries.insert(Arc::new(Entry {
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
            // At its next renewal it tells all, and hears who has this one.
            loser.lease.set_version(0);
        }
        if let Some(owner) = self.sessions.get_mut(&session) {
            owner.owned.insert(key);
        }
        Ok(action)
    }

    /// Whether its session has ended and the registration is still to be removed.
    fn is_left(&self, service: &str, entry: &Entry) -> bool {
        let key = (service.to_owned(), Arc::clone(&entry.id));
        self.sessions.get(&entry.session).is_none_or(|session| !session.owned.contains(&key))
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
        if !listed.entries.get(id).is_some_and(|entry| which(entry)) {
            return false;
        }
        let Some(removed) = listed.entries.remove(id) else { return false };
        if left == Left::InOrder && listed.depart(&removed.id) {
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

    /// All is told that belongs to the session: what is left of an earlier attendance has been taken
    /// back meanwhile, and is still to be removed.
    pub(super) fn complete(&mut self, session: u64) -> Vec<Key> {
        match self.sessions.get_mut(&session).filter(|it| !it.whole) {
            Some(it) => {
                it.whole = true;
                it.owned.iter().cloned().collect()
            }
            None => Vec::new(),
        }
    }

    pub(super) fn end_session(&mut self, session: u64) -> Option<Ended> {
        let it = self.sessions.remove(&session)?;
        self.refund(&it.identity, Item::Session, it.identity.bytes);
        Some(Ended {
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
