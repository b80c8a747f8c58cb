//! A registration that is made again for as long as its lease lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Shared;
use super::back_off::BackOff;
use crate::back_end::{Announcement, BackEnd, Claim, Session};
use crate::lease::LeaseState;
use crate::{BoxFuture, Instance, Lease, LeaseHandle, LogLimit, RegistryError, limited};

/// Announces an instance, and goes on to do so.
pub(super) async fn register<B: BackEnd>(
    shared: &Arc<Shared<B>>,
    instance: Instance,
) -> Result<Lease, RegistryError> {
    let made = shared.back_end.announce(instance, Claim::New).await?;
    let instance = made.instance.clone();
    let (states, seen) = watch::channel(LeaseState::Held { epoch: instance.epoch() });
    let place = Arc::new(Place(Mutex::new(Held::Session(made.session))));
    let keeper = Keeper { shared: Arc::clone(shared), place: Arc::clone(&place), states };
    let task = shared.runtime.spawn(keeper.keep(instance.clone(), made.lost)).abort_handle();
    Ok(Lease::with_states(instance, KeptLease { place, task, ending: None }, seen))
}

/// Where the lease and its keeper meet.
struct Place(Mutex<Held>);

enum Held {
    Session(Box<dyn Session>),
    /// It is being registered again.
    Nothing,
    /// The lease has ended.
    Ended,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another session there, unless the lease has ended: then it is returned.
    fn put(&self, next: Held) -> Result<Held, Held> {
        let mut held = self.lock();
        match &*held {
            Held::Ended => Err(next),
            _ => Ok(std::mem::replace(&mut *held, next)),
        }
    }

    fn end(&self) -> Option<Box<dyn Session>> {
        match std::mem::replace(&mut *self.lock(), Held::Ended) {
            Held::Session(session) => Some(session),
            Held::Nothing | Held::Ended => None,
        }
    }
}

struct Keeper<B> {
    shared: Arc<Shared<B>>,
    place: Arc<Place>,
    states: watch::Sender<LeaseState>,
}

impl<B: BackEnd> Keeper<B> {
    async fn keep(self, instance: Instance, mut lost: BoxFuture<'static, RegistryError>) {
        let (service, id) = (instance.service().to_owned(), instance.id().to_owned());
        let mut epoch = instance.epoch();
        let mut back_off = BackOff::default();
        let (lost_log, again_log) = (LogLimit::new(), LogLimit::new());
        loop {
            let held = Instant::now();
            let cause = lost.await;
            back_off.lasted(held.elapsed());
            // What is left of it has an older epoch than what comes next.
            if self.place.put(Held::Nothing).is_err() {
                return;
            }
            limited!(warn, limit = lost_log; service, id, %cause, "a registration is lost; registering again");
            self.states.send_replace(LeaseState::Lost { cause });
            let made = self.again(&instance, &mut epoch, &mut back_off).await;
            limited!(info, limit = again_log; service, id, epoch, "registered again");
            if let Err(Held::Session(mut unwanted)) = self.place.put(Held::Session(made.session)) {
                unwanted.abandon();
                return;
            }
            self.states.send_replace(LeaseState::Held { epoch });
            lost = made.lost;
        }
    }

    /// Registers again. Each attempt has an epoch of its own: one of which no answer came may have
    /// left an entry. But where somebody else has the id meanwhile it stays theirs: an epoch that
    /// grew with each attempt would soon be newer than theirs.
    async fn again(
        &self,
        instance: &Instance,
        epoch: &mut u64,
        back_off: &mut BackOff,
    ) -> Announcement {
        loop {
            tokio::time::sleep(back_off.next()).await;
            let attempt = epoch.saturating_add(1);
            let next = instance.clone().with_epoch(attempt);
            match self.shared.back_end.announce(next, Claim::Again).await {
                Ok(made) => {
                    *epoch = made.instance.epoch();
                    return made;
                }
                Err(cause) => {
                    if !cause.is_already_exists() {
                        *epoch = attempt;
                    }
                    tracing::debug!(service = instance.service(), %cause, "not registered again");
                    self.states.send_replace(LeaseState::Lost { cause });
                }
            }
        }
    }
}

struct KeptLease {
    place: Arc<Place>,
    task: AbortHandle,
    /// Kept here while it is withdrawn, so that it is abandoned if that is cancelled.
    ending: Option<Box<dyn Session>>,
}

impl KeptLease {
    /// Nothing is registered from here on that has not been.
    fn end(&mut self) -> Option<&mut Box<dyn Session>> {
        if let Some(session) = self.place.end() {
            self.ending = Some(session);
        }
        // An announcement that is under way is taken back.
        self.task.abort();
        self.ending.as_mut()
    }
}

impl LeaseHandle for KeptLease {
    fn revoke(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let outcome = match self.end() {
                Some(session) => session.withdraw().await,
                None => Ok(()),
            };
            self.ending = None;
            outcome
        })
    }

    fn abandon(&mut self) {
        if let Some(session) = self.end() {
            session.abandon();
        }
        self.ending = None;
    }
}
