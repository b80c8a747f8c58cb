use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::{BoxFuture, Instance, RegistryError};

/// A registration that is in force as long as this value lives.
///
/// Dropping it ends the registration at once; [`revoke`](Self::revoke) does the same and reports
/// whether it worked.
#[must_use = "dropping a lease removes the registration"]
pub struct Lease {
    instance: Instance,
    /// `None` once revoked. The mutex is never locked: it makes the lease `Sync` although a
    /// handle need only be `Send`, since all access is through `&mut`.
    handle: Mutex<Option<Box<dyn LeaseHandle>>>,
    states: LeaseStates,
    /// Of a lease that can't be lost: it says nothing, and goes with the lease.
    _never_lost: Option<watch::Sender<LeaseState>>,
}

/// Whether a registration is in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LeaseState {
    /// It is, with this epoch.
    Held {
        /// Higher each time it was registered again.
        epoch: u64,
    },
    /// It was lost, and is being registered again until that succeeds.
    Lost {
        /// Why, or why the last attempt to register again failed.
        cause: RegistryError,
    },
}

/// Follows the state of a [`Lease`], without keeping that.
#[derive(Debug, Clone)]
pub struct LeaseStates(watch::Receiver<LeaseState>);

impl LeaseStates {
    /// Waits until the state differs from the one that was seen last, and returns it; `None` once
    /// the lease has ended. Cancel safe: a dropped future has consumed nothing.
    pub async fn changed(&mut self) -> Option<LeaseState> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }

    /// The state now.
    pub fn now(&self) -> LeaseState {
        self.0.borrow().clone()
    }
}

/// What a back end does when a [`Lease`] ends. Exactly one of the two methods is called to its
/// end, after which the handle is dropped.
pub trait LeaseHandle: Send + 'static {
    /// Removes the registration and reports how that went.
    ///
    /// If the future is dropped before it is ready, [`abandon`](Self::abandon) follows.
    fn revoke(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Removes the registration as well as can be done without waiting: called from
    /// [`Lease`]'s `Drop`, maybe on a thread that runs other tasks, maybe outside of a runtime.
    /// Log failures; there is nobody to return them to.
    fn abandon(&mut self);
}

impl Lease {
    /// A lease for `instance`, as it was stored, that `handle` ends and nothing else does.
    pub fn new(instance: Instance, handle: impl LeaseHandle) -> Self {
        let (never_lost, states) = watch::channel(LeaseState::Held { epoch: instance.epoch() });
        let mut lease = Self::with_states(instance, handle, states);
        lease._never_lost = Some(never_lost);
        lease
    }

    /// One that may be lost and come back, as `states` tells.
    pub(crate) fn with_states(
        instance: Instance,
        handle: impl LeaseHandle,
        states: watch::Receiver<LeaseState>,
    ) -> Self {
        let states = LeaseStates(states);
        let handle = Mutex::new(Some(Box::new(handle) as _));
        Self { instance, handle, states, _never_lost: None }
    }

    /// The id under which the instance is registered.
    pub fn id(&self) -> &str {
        self.instance.id()
    }

    /// Whether the registration is in force now, and from now on.
    pub fn states(&self) -> LeaseStates {
        self.states.clone()
    }

    /// The instance as it was first stored; its [`epoch`](Instance::epoch) may be newer than the one
    /// that was given.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Ends the registration and reports whether everything that belongs to it was removed.
    ///
    /// # Errors
    ///
    /// What the back end ran into. The registration is no longer renewed even then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the lease.
    pub async fn revoke(mut self) -> Result<(), RegistryError> {
        let outcome = match self.handle_mut() {
            Some(handle) => handle.revoke().await,
            None => Ok(()),
        };
        *self.handle_mut() = None;
        outcome
    }

    fn handle_mut(&mut self) -> &mut Option<Box<dyn LeaseHandle>> {
        self.handle.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(handle) = self.handle_mut() {
            handle.abandon();
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

    #[derive(Clone, Default)]
    struct Recorder {
        revoked: Arc<AtomicUsize>,
        abandoned: Arc<AtomicUsize>,
        stuck: bool,
    }

    impl LeaseHandle for Recorder {
        fn revoke(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
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
