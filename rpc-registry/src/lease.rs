use std::fmt;

use tokio::sync::watch;

use crate::back_end::Session;
use crate::sync::Mutex;
use crate::{Instance, RegistryError};

/// A registration that is in force as long as this value lives.
///
/// Dropping it ends the registration immediately. [`revoke`](Self::revoke) also reports whether
/// that succeeded.
#[must_use = "dropping a lease removes the registration"]
pub struct Lease {
    instance: Instance,
    /// `None` once revoked. The mutex is never locked: it makes the lease `Sync` although a session
    /// is only `Send`, since all access is through `&mut`.
    session: Mutex<Option<Box<dyn Session>>>,
    states: LeaseStates,
    /// The sender of a lease that cannot be lost. It ends with the lease.
    _never_lost: Option<watch::Sender<LeaseState>>,
}

/// Whether a registration is in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LeaseState {
    /// The registration is in force.
    Held {
        /// The epoch of the registration. It grows with each new registration.
        epoch: u64,
    },
    /// The registration is lost. It is being registered again until that succeeds.
    Lost {
        /// Why it was lost, or why the last attempt to register again failed.
        cause: RegistryError,
    },
}

/// The states of a [`Lease`]. Does not keep the lease alive.
#[derive(Debug, Clone)]
pub struct LeaseStates(watch::Receiver<LeaseState>);

impl LeaseStates {
    /// Waits for a new state and returns it; `None` once the lease has ended. Cancel safe: a
    /// dropped future has consumed nothing.
    pub async fn changed(&mut self) -> Option<LeaseState> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }

    /// The current state.
    pub fn now(&self) -> LeaseState {
        self.0.borrow().clone()
    }
}

impl Lease {
    /// A lease that cannot be lost, for tests. Its end ends `session`.
    #[doc(hidden)]
    pub fn new(instance: Instance, session: impl Session) -> Self {
        let (never_lost, states) = watch::channel(LeaseState::Held { epoch: instance.epoch() });
        let mut lease = Self::with_states(instance, session, states);
        lease._never_lost = Some(never_lost);
        lease
    }

    /// A lease for `instance`, as it was stored. Its end ends `session`.
    pub(crate) fn with_states(
        instance: Instance,
        session: impl Session,
        states: watch::Receiver<LeaseState>,
    ) -> Self {
        let states = LeaseStates(states);
        let session = Mutex::new(Some(Box::new(session) as _));
        Self { instance, session, states, _never_lost: None }
    }

    /// The id under which the instance is registered.
    pub fn id(&self) -> &str {
        self.instance.id()
    }

    /// The current and all later states: whether the registration is in force.
    pub fn states(&self) -> LeaseStates {
        self.states.clone()
    }

    /// The instance as it was first stored. Its [`epoch`](Instance::epoch) may be newer than that
    /// of the instance that was registered.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Ends the registration and reports whether everything that belongs to it was removed.
    ///
    /// # Errors
    ///
    /// The error of the back end. The registration is no longer renewed in any case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the lease.
    pub async fn revoke(mut self) -> Result<(), RegistryError> {
        let outcome = match self.session.get_mut() {
            Some(session) => session.withdraw().await,
            None => Ok(()),
        };
        *self.session.get_mut() = None;
        outcome
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.get_mut() {
            session.abandon();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::BoxFuture;

    #[derive(Clone, Default)]
    struct Recorder {
        revoked: Arc<AtomicUsize>,
        abandoned: Arc<AtomicUsize>,
        stuck: bool,
    }

    impl Session for Recorder {
        fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
            Box::pin(async {
                if self.stuck {
                    std::future::pending::<()>().await;
                }
                self.revoked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        }

        fn abandon(&mut self) {
            self.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Recorder {
        fn lease(&self) -> Lease {
            Lease::new(Instance::new("svc", "tcp://127.0.0.1:1"), self.clone())
        }

        fn counts(&self) -> (usize, usize) {
            (self.revoked.load(Ordering::SeqCst), self.abandoned.load(Ordering::SeqCst))
        }
    }

    #[tokio::test]
    async fn a_revoked_lease_is_not_abandoned_too() {
        let recorder = Recorder::default();
        recorder.lease().revoke().await.unwrap();
        assert_eq!(recorder.counts(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_revoke_still_ends_the_registration() {
        let recorder = Recorder { stuck: true, ..Recorder::default() };
        let revoke = recorder.lease().revoke();
        assert!(timeout(Duration::from_millis(1), revoke).await.is_err());
        assert_eq!(recorder.counts(), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_states_of_a_lease_that_cannot_be_lost_end_with_it_and_not_before() {
        let lease = Recorder::default().lease();
        let mut states = lease.states();
        assert!(timeout(Duration::from_secs(60), states.changed()).await.is_err());
        drop(lease);
        assert!(states.changed().await.is_none());
    }

    #[test]
    fn a_lease_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Lease>();
    }
}
