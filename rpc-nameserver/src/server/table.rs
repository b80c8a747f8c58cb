//! [`Table`]: what a name server's sessions and consumers can do with its [`State`]. No I/O.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::leases::Leases;
use super::listed::{Left, Listed};
use super::state::{Entry, FIXED_BYTES, Session, State};
use crate::contract::{Change, Listing, NameError, Refusal};

pub(super) struct Table {
    pub(super) leases: Leases,
    state: Mutex<State>,
    /// Until then nobody knows who will still register.
    started: Instant,
    max_bytes: usize,
}

impl Table {
    /// With what is kept for `max_bytes`, roughly, at most.
    pub(super) fn new(grace: Duration, max_bytes: usize) -> Self {
        let now = Instant::now();
        let started = now.checked_add(grace).unwrap_or(now);
        Self { leases: Leases::new(), state: Mutex::default(), started, max_bytes }
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
