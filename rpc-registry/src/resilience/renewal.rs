//! [`LeaseRenewer`]: makes a registration again as long as its lease lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::shared::Shared;
use crate::back_end::{Announcement, BackEnd, Claim, Session};
use crate::back_off::BackOff;
use crate::lease::LeaseState;
use crate::sync::Mutex;
use crate::{BoxFuture, Instance, Lease, LogLimit, RegistryError, limited};

/// The pauses between attempts to register again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Announces an instance, and announces it again when its session is lost.
pub(super) async fn register<B: BackEnd>(
    shared: &Arc<Shared<B>>,
    instance: Instance,
) -> Result<Lease, RegistryError> {
    let made = shared.back_end.announce(instance, Claim::New).await?;
    let instance = made.instance.clone();
    let (states, receiver) = watch::channel(LeaseState::Held { epoch: instance.epoch() });
    let slot = Arc::new(SessionSlot(Mutex::new(Slot::Session(made.session))));
    let renewer = LeaseRenewer { shared: Arc::clone(shared), slot: Arc::clone(&slot), states };
    let task = shared.runtime.spawn(renewer.run(instance.clone(), made.lost)).abort_handle();
    Ok(Lease::with_states(instance, RenewedSession { slot, task, ending: None }, receiver))
}

/// The current session of a lease. The lease and its renewer share it, so that the end of the lease
/// ends the session without a task.
struct SessionSlot(Mutex<Slot>);

enum Slot {
    Session(Box<dyn Session>),
    /// The session is lost, and the next one is not there yet.
    Empty,
    /// The lease has ended.
    Ended,
}

impl SessionSlot {
    /// Replaces the session, unless the lease has ended: then `next` is returned as the error.
    fn replace(&self, next: Slot) -> Result<Slot, Slot> {
        let mut slot = self.0.lock();
        match &*slot {
            Slot::Ended => Err(next),
            _ => Ok(std::mem::replace(&mut *slot, next)),
        }
    }

    /// Ends the lease and returns its session.
    fn end(&self) -> Option<Box<dyn Session>> {
        match std::mem::replace(&mut *self.0.lock(), Slot::Ended) {
            Slot::Session(session) => Some(session),
            Slot::Empty | Slot::Ended => None,
        }
    }
}

struct LeaseRenewer<B> {
    shared: Arc<Shared<B>>,
    slot: Arc<SessionSlot>,
    states: watch::Sender<LeaseState>,
}

impl<B: BackEnd> LeaseRenewer<B> {
    async fn run(self, instance: Instance, mut lost: BoxFuture<'static, RegistryError>) {
        let (service, id) = (instance.service().to_owned(), instance.id().to_owned());
        let mut epoch = instance.epoch();
        let mut back_off = BackOff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let (lost_limit, again_limit) = (LogLimit::new(), LogLimit::new());
        loop {
            let held = Instant::now();
            let cause = lost.await;
            back_off.lasted(held.elapsed());
            // What is left of the lost session has an older epoch than the next one.
            if self.slot.replace(Slot::Empty).is_err() {
                return;
            }
            limited!(warn, limit = lost_limit; service, id, %cause, "a registration is lost; registering again");
            self.states.send_replace(LeaseState::Lost { cause });
            let made = self.announce_again(&instance, &mut epoch, &mut back_off).await;
            limited!(info, limit = again_limit; service, id, epoch, "registered again");
            if let Err(Slot::Session(mut unused)) = self.slot.replace(Slot::Session(made.session)) {
                unused.abandon();
                return;
            }
            self.states.send_replace(LeaseState::Held { epoch });
            lost = made.lost;
        }
    }

    /// Each attempt has an epoch of its own: an attempt without an answer may have left an entry.
    /// If another provider has the id, the epoch does not grow: otherwise it would soon be newer
    /// than the epoch of that provider and displace it.
    async fn announce_again(
        &self,
        instance: &Instance,
        epoch: &mut u64,
        back_off: &mut BackOff,
    ) -> Announcement {
        loop {
            tokio::time::sleep(back_off.next_pause()).await;
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

/// The session of a lease, whichever of the back end's sessions is the current one.
struct RenewedSession {
    slot: Arc<SessionSlot>,
    task: AbortHandle,
    /// Stored here during the withdrawal, so that it is abandoned if that is cancelled.
    ending: Option<Box<dyn Session>>,
}

impl RenewedSession {
    /// No announcement is made after this.
    fn end(&mut self) -> Option<&mut Box<dyn Session>> {
        if let Some(session) = self.slot.end() {
            self.ending = Some(session);
        }
        // An announcement that is in progress is taken back.
        self.task.abort();
        self.ending.as_mut()
    }
}

impl Session for RenewedSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
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
