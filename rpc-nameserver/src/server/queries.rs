//! Queries of consumers on the [`Table`].

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::accounts::Charge;
use super::changes::BATCH;
use super::identity::Identity;
use super::packed::{Packed, nobody};
use super::table::Table;
use crate::contract::NameError;

impl Table {
    /// The rest of the grace period, in which the server must not answer that a service has no
    /// providers.
    fn starting(&self) -> Option<Duration> {
        let left = self.started.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The current list of a service, or a later one.
    pub(super) async fn lookup(&self, service: &str) -> Result<Packed, NameError> {
        {
            let state = self.lock();
            state.check_open()?;
            let is_known = state.services.get(service).is_some_and(|it| !it.entries.is_empty());
            if let Some(left) = self.starting().filter(|_| !is_known) {
                return Err(is_starting(left));
            }
        }
        self.list(service).await
    }

    /// The same, without the error that the server is starting.
    pub(super) async fn list(&self, service: &str) -> Result<Packed, NameError> {
        let (packed, change) = {
            let state = self.lock();
            state.check_open()?;
            let Some(listed) = state.services.get(service) else { return Ok(nobody()) };
            let change = listed.change();
            match listed.packed.since(change) {
                Some(packed) => return Ok(packed),
                None => (Arc::clone(&listed.packed), change),
            }
        };
        let snapshot = || {
            let state = self.lock();
            let listed = state.services.get(service);
            // A service without registrations needs no cached list.
            listed.map_or((change, Default::default()), |it| (it.change(), it.entries.clone()))
        };
        Ok(packed.pack(change, snapshot).await?)
    }

    /// The providers that left in order after the change `seen` and are not in the list of the
    /// change `sent`.
    pub(super) fn departed(&self, service: &str, seen: u64, sent: u64) -> Vec<String> {
        let state = self.lock();
        state.services.get(service).map(|it| it.departed(seen, sent)).unwrap_or_default()
    }

    /// The names of the services that this client may read. They are read in parts, so that other
    /// requests do not wait. A service that is added or removed at the same time may be included or
    /// not.
    pub(super) async fn services(&self, by: &Identity) -> Result<Vec<String>, NameError> {
        let (mut names, mut last, mut is_any_known) = (Vec::new(), None, false);
        loop {
            let part = self.services_after(last.as_deref())?;
            let Some((name, _)) = part.last() else { break };
            last = Some(name.clone());
            let known = part.into_iter().filter(|(_, is_known)| *is_known);
            let known = known.inspect(|_| is_any_known = true).map(|(name, _)| name);
            names.extend(known.filter(|name| by.rights.may_read(name)));
            yield_now().await;
        }
        match self.starting() {
            Some(left) if !is_any_known => Err(is_starting(left)),
            _ => Ok(names),
        }
    }

    /// Some services after this one, and whether they have providers.
    fn services_after(&self, last: Option<&str>) -> Result<Vec<(String, bool)>, NameError> {
        let state = self.lock();
        state.check_open()?;
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let part = state.services.range::<str, _>((from, Bound::Unbounded)).take(BATCH);
        Ok(part.map(|(name, listed)| (name.clone(), !listed.entries.is_empty())).collect())
    }

    /// Begins to follow a service. The returned receiver gets the number of each change.
    /// [`unfollow`](Self::unfollow) must follow.
    pub(super) fn follow(
        &self,
        by: &Identity,
        service: &str,
    ) -> Result<watch::Receiver<u64>, NameError> {
        let mut state = self.lock();
        state.check_open()?;
        let is_known = state.services.get(service).is_some_and(|listed| !listed.entries.is_empty());
        match self.starting() {
            Some(left) if !is_known => return Err(is_starting(left)),
            _ => {}
        }
        state.charge(by, Charge::Follow, by.bytes, self.max_bytes).map_err(NameError::Full)?;
        Ok(state.services.entry(service.to_owned()).or_default().changes.subscribe())
    }

    /// The receiver that `follow` returned is dropped.
    pub(super) fn unfollow(&self, by: &Identity, service: &str) {
        let mut state = self.lock();
        state.refund(by, Charge::Follow, by.bytes);
        state.drop_unused(service);
    }
}

fn is_starting(left: Duration) -> NameError {
    NameError::Starting { left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1) }
}
