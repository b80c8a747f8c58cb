//! Changes of the [`Table`] by sessions, and removals by other clients.

use std::collections::BTreeSet;
use std::sync::Arc;

use rpc_registry::sync::MutexGuard;
use tokio::task::yield_now;

use super::audit::Action;
use super::identity::{Identity, hash};
use super::reports::CheckedChange;
use super::service_record::Departure;
use super::stored_registration::{Key, StoredRegistration};
use super::table::Table;
use super::table_state::TableState;
use crate::contract::{NameError, Refusal};
use crate::secret::Secret;

/// Changes made, and services read, per lock of the table.
pub(super) const BATCH: usize = 128;

impl Table {
    /// Applies the changes of a session.
    pub(super) async fn report(
        &self,
        by: &Arc<Identity>,
        session: u64,
        version: u64,
        steps: Vec<CheckedChange>,
    ) -> Result<Vec<Refusal>, NameError> {
        let attendance = {
            let state = self.lock();
            state.check_open()?;
            let it = state.session(session, by)?;
            // Until all changes are applied, the version of the data is unknown.
            it.lease.set_version(0);
            it.attendance
        };
        let mut refusals = Vec::new();
        let mut steps = (0_u32..).zip(steps).peekable();
        while steps.peek().is_some() {
            let part: Vec<_> =
                steps.by_ref().take(BATCH).map(|(n, it)| (n, it.checked(by))).collect();
            self.make(by, session, attendance, part, &mut refusals)?;
            if steps.peek().is_some() {
                yield_now().await;
            }
        }
        if version != 0 {
            let owned = self.attended(by, session, attendance)?.complete(session);
            let is_stale = |entry: &StoredRegistration| {
                entry.session == session && entry.attendance < attendance
            };
            self.remove_all(&owned, Departure::InOrder, is_stale).await;
        }
        let state = self.attended(by, session, attendance)?;
        state.session(session, by)?.lease.set_version(version);
        Ok(refusals)
    }

    /// Locks the state and checks that the session is still attended by the same connection.
    fn attended(
        &self,
        by: &Identity,
        session: u64,
        attendance: u64,
    ) -> Result<MutexGuard<'_, TableState>, NameError> {
        let state = self.lock();
        state.check_open()?;
        match state.session(session, by)?.attendance == attendance {
            true => Ok(state),
            false => Err(NameError::NoSession),
        }
    }

    /// Applies some changes under one lock.
    fn make(
        &self,
        by: &Arc<Identity>,
        session: u64,
        attendance: u64,
        part: Vec<(u32, CheckedChange)>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<(), NameError> {
        let mut records = Vec::new();
        let mut changed = BTreeSet::new();
        let mut state = self.attended(by, session, attendance)?;
        // One for all that the session has, as long as it pays in the same way.
        let known = &state.session(session, by)?.identity;
        let by = &Arc::clone(if known.is_same_account(by) { known } else { by });
        for (index, step) in part {
            let (key, made) = match step {
                CheckedChange::Register(it) => {
                    let key = (it.service.clone(), Arc::clone(&it.id));
                    (key, state.register(session, attendance, by, it, self.max_bytes))
                }
                CheckedChange::Unregister { service, id, epoch } => {
                    let is_own =
                        |it: &StoredRegistration| it.session == session && it.epoch == epoch;
                    if !state.remove(&service, &id, Departure::InOrder, is_own) {
                        continue;
                    }
                    ((service, id.into()), Ok(Some(Action::Unregister)))
                }
                CheckedChange::Refused(why, message, key) => (key, Err((why, message))),
            };
            match made {
                Ok(action) => {
                    changed.insert(key.0.clone());
                    records.extend(action.map(|action| (action, key, String::new())));
                }
                Err((why, message)) => {
                    records.push((Action::Refuse, key, message.clone()));
                    refusals.push(Refusal { index, why, message });
                }
            }
        }
        changed.iter().for_each(|service| state.publish(service));
        drop(state);
        for (action, (service, id), why) in records {
            self.audit.record(action, by, &[&service, &id], &why);
        }
        Ok(())
    }

    /// Removes a registration if this client has the right to.
    pub(super) fn remove(
        &self,
        by: &Identity,
        service: &str,
        id: &str,
        secret: Option<&Secret>,
    ) -> Result<bool, NameError> {
        let secret = secret.map(|secret| hash(secret.bytes()));
        let mut state = self.lock();
        state.check_open()?;
        let entry = state.services.get(service).and_then(|listed| listed.entries.get(id));
        let Some(entry) = entry else { return Ok(false) };
        if !entry.is_removable(service, by, secret) {
            drop(state);
            let why = "it was registered by another client, and the right to remove it is missing";
            self.audit.record(Action::Refuse, by, &["remove", service, id], why);
            return Err(NameError::Denied(why.to_owned()));
        }
        state.remove(service, id, Departure::InOrder, |_| true);
        state.publish(service);
        drop(state);
        self.audit.record(Action::Remove, by, &[service, id], "");
        Ok(true)
    }

    /// Removes the matching entries, in parts.
    pub(super) async fn remove_all(
        &self,
        keys: &[Key],
        left: Departure,
        which: impl Fn(&StoredRegistration) -> bool,
    ) {
        for part in keys.chunks(BATCH) {
            {
                let mut state = self.lock();
                let mut changed = BTreeSet::new();
                for (service, id) in part {
                    if state.remove(service, id, left, &which) {
                        changed.insert(service);
                    }
                }
                changed.into_iter().for_each(|service| state.publish(service));
            }
            if keys.len() > BATCH {
                yield_now().await;
            }
        }
    }
}
