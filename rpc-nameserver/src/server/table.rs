//! [`Table`]: the operations of sessions and consumers on the [`TableState`]. No I/O.
//!
//! Sessions begin and end here. Changes are in [`changes`](super::changes), queries of consumers in
//! [`queries`](super::queries).
//!
//! The lock is held for a few changes at a time. Reports and lists are checked and encoded outside
//! of it and processed in parts.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::sync::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::accounts::Charge;
use super::audit::{Action, Audit};
use super::identity::{Caller, Identity};
use super::leases::Leases;
use super::policy_file::PolicyFile;
use super::service_record::Departure;
use super::stored_registration::StoredRegistration;
use super::table_state::{EndedSession, Session, TableState};
use crate::contract::NameError;

pub(super) struct Table {
    pub(super) leases: Leases,
    pub(super) policy: PolicyFile,
    pub(super) audit: Audit,
    state: Mutex<TableState>,
    /// The end of the grace period.
    pub(super) started: Instant,
    pub(super) max_bytes: usize,
}

impl Table {
    /// `max_bytes` limits the approximate memory of all content.
    pub(super) fn new(grace: Duration, max_bytes: usize, policy: PolicyFile) -> Self {
        let now = Instant::now();
        let started = now.checked_add(grace).unwrap_or(now);
        let (leases, audit) = (Leases::new(), Audit::default());
        Self { leases, policy, audit, state: Mutex::default(), started, max_bytes }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, TableState> {
        self.state.lock()
    }

    /// The identity and rights of a caller.
    pub(super) fn identify(&self, caller: &Caller) -> Result<Identity, NameError> {
        let policy = self.policy.current();
        policy.identify(caller).inspect_err(|error| {
            let why = format!("{error:?}");
            self.audit.record(Action::Refuse, &policy.anonymous(caller), &["identity"], &why);
        })
    }

    /// Begins a session, or continues it on another connection. Returns the number of this
    /// attendance, and a receiver that closes at its end.
    pub(super) fn attend(
        &self,
        caller: Caller,
        by: &Arc<Identity>,
        session: u64,
        expiry: Duration,
    ) -> Result<(u64, oneshot::Receiver<()>), NameError> {
        let mut state = self.lock();
        state.check_open()?;
        if state.sessions.get(&session).is_some_and(|it| it.identity.name != by.name) {
            return Err(NameError::Denied("the session belongs to another identity".to_owned()));
        }
        let before = state.sessions.remove(&session);
        if let Some(before) = &before {
            state.refund(&before.identity, Charge::Session, before.identity.bytes);
        }
        if let Err(message) = state.charge(by, Charge::Session, by.bytes, self.max_bytes) {
            if let Some(before) = before {
                let (by, limit) = (&before.identity, usize::MAX);
                let _ = state.charge(by, Charge::Session, by.bytes, limit);
                state.sessions.insert(session, before);
            }
            return Err(NameError::Full(message));
        }
        let owned = before.map(|before| before.owned).unwrap_or_default();
        let lease = self.leases.begin(session, expiry, by.name.clone());
        state.attendances = state.attendances.wrapping_add(1);
        let attendance = state.attendances;
        let (_attended, over) = oneshot::channel();
        let identity = Arc::clone(by);
        let it = Session { lease, attendance, whole: false, owned, identity, caller, _attended };
        state.sessions.insert(session, it);
        Ok((attendance, over))
    }

    /// Ends the session of a closed connection. The returned session must be [swept](Self::sweep).
    pub(super) fn leave(&self, session: u64, attendance: u64) -> Option<EndedSession> {
        let mut state = self.lock();
        let it = state.sessions.get(&session).filter(|it| it.attendance == attendance);
        it.is_some().then(|| state.end_session(session)).flatten()
    }

    /// Ends expired sessions. The returned sessions must be [swept](Self::sweep).
    pub(super) fn expire(&self) -> Vec<EndedSession> {
        let expired = self.leases.take_expired();
        if expired.is_empty() {
            return Vec::new();
        }
        let mut state = self.lock();
        let is_same = |state: &TableState, session, lease| {
            state.sessions.get(session).is_some_and(|it| Arc::ptr_eq(&it.lease, lease))
        };
        let ended = expired.iter().filter_map(|(session, lease)| {
            is_same(&state, session, lease).then(|| state.end_session(*session)).flatten()
        });
        ended.collect()
    }

    /// Applies a new policy: ends sessions of clients that are no longer known, or whose
    /// registrations are no longer allowed. The returned sessions must be [swept](Self::sweep).
    pub(super) fn revoke(&self) -> Vec<EndedSession> {
        let policy = self.policy.current();
        let sessions: Vec<u64> = self.lock().sessions.keys().copied().collect();
        let revoked = sessions.into_iter().filter_map(|session| {
            let mut state = self.lock();
            let it = state.sessions.get(&session)?;
            let is_allowed = policy.identify(&it.caller).is_ok_and(|now| {
                now.name == it.identity.name
                    && it.owned.iter().all(|(service, _)| now.rights.may_register(service))
            });
            (!is_allowed).then(|| state.end_session(session)).flatten()
        });
        revoked.collect()
    }

    /// Removes the registrations of an ended session, in parts. The server itself may be at fault,
    /// so they are not announced as departures.
    pub(super) async fn sweep(&self, ended: EndedSession, action: Action) {
        let EndedSession { session, lease, identity, attendance, owned } = ended;
        self.leases.end(session, &lease);
        let (count, owned) = (owned.len(), Vec::from_iter(owned));
        // A session that attends again with the same number has a later attendance.
        let is_left =
            |entry: &StoredRegistration| entry.session == session && entry.attendance <= attendance;
        self.remove_all(&owned, Departure::Expired, is_left).await;
        if count > 0 {
            let what = format!("{count} registrations");
            self.audit.record(action, &identity, &[&what], "");
        }
    }

    /// Ends all sessions and streams. Later requests are refused.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.sessions.clear();
        state.services.clear();
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
