//! [`Leases`]: when each session was last renewed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_registry::sync::RwLock;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The leases of all sessions, separate from their registrations: a renewal waits only for the
/// begin or end of another session.
pub(super) struct Leases {
    /// The origin of the times.
    epoch: Instant,
    held: RwLock<HashMap<u64, Arc<SessionLease>>>,
}

/// The lease of a session.
pub(super) struct SessionLease {
    /// The last renewal, in milliseconds.
    heard: AtomicU64,
    expiry: Duration,
    /// The version of the session's data; 0 if it is incomplete.
    version: AtomicU64,
    /// The name of the identity that owns the session.
    holder: Option<Arc<str>>,
    /// Held while a report is processed.
    reporting: Mutex<()>,
}

impl SessionLease {
    /// Waits until no other report of the session is processed. Concurrent reports would take much
    /// memory and have no order.
    pub(super) async fn report(&self) -> MutexGuard<'_, ()> {
        self.reporting.lock().await
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now(), held: RwLock::default() }
    }

    /// A new lease of the session, in place of the old one.
    pub(super) fn begin(
        &self,
        session: u64,
        expiry: Duration,
        holder: Option<Arc<str>>,
    ) -> Arc<SessionLease> {
        let heard = AtomicU64::new(self.now());
        let (version, reporting) = (AtomicU64::new(0), Mutex::default());
        let lease = Arc::new(SessionLease { heard, expiry, version, holder, reporting });
        let mut held = self.held.write();
        held.insert(session, Arc::clone(&lease));
        lease
    }

    /// Renews the session. `None` if it is unknown or does not belong to `holder`.
    pub(super) fn touch(&self, session: u64, holder: Option<&str>) -> Option<Arc<SessionLease>> {
        let held = self.held.read();
        let lease = held.get(&session).filter(|lease| lease.holder.as_deref() == holder)?;
        lease.heard.store(self.now(), Ordering::Release);
        Some(Arc::clone(lease))
    }

    /// The session has ended, unless it has another lease by now.
    pub(super) fn end(&self, session: u64, lease: &Arc<SessionLease>) {
        let mut held = self.held.write();
        if held.get(&session).is_some_and(|current| Arc::ptr_eq(current, lease)) {
            held.remove(&session);
        }
    }

    /// Removes and returns the expired leases.
    pub(super) fn take_expired(&self) -> Vec<(u64, Arc<SessionLease>)> {
        let now = self.now();
        let mut held = self.held.write();
        let is_over = |lease: &SessionLease| {
            let silent = now.saturating_sub(lease.heard.load(Ordering::Acquire));
            Duration::from_millis(silent) >= lease.expiry
        };
        held.extract_if(|_, lease| is_over(lease)).collect()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(leases: &Leases, session: u64, holder: Option<&str>) -> Option<u64> {
        leases.touch(session, holder).map(|lease| lease.version())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_touched_for_its_time_is_taken_out_once() {
        let leases = Leases::new();
        let lease = leases.begin(1, Duration::from_secs(3), None);
        leases.begin(2, Duration::from_secs(3), None);
        lease.set_version(7);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(touch(&leases, 1, None), Some(7));
        tokio::time::advance(Duration::from_secs(1)).await;
        let expired = leases.take_expired();
        assert_eq!(expired.iter().map(|(session, _)| *session).collect::<Vec<_>>(), [2]);
        assert!(leases.take_expired().is_empty());
        assert_eq!((touch(&leases, 1, None), touch(&leases, 2, None)), (Some(7), None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_older_lease_does_not_end_the_newer_one() {
        let leases = Leases::new();
        let old = leases.begin(1, Duration::from_secs(3), None);
        leases.begin(1, Duration::from_secs(3), None);
        leases.end(1, &old);
        assert_eq!(touch(&leases, 1, None), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_renews_a_session() {
        let leases = Leases::new();
        leases.begin(1, Duration::from_secs(3), Some("one".into()));
        assert_eq!((touch(&leases, 1, Some("other")), touch(&leases, 1, None)), (None, None));
        assert_eq!(touch(&leases, 1, Some("one")), Some(0));
    }
}
