use tokio::sync::watch;

use crate::{Instance, RegistryError, Snapshot};

/// Follows the living instances of one service.
///
/// Made by [`Registry::watch`](crate::Registry::watch). It does not need the registry to be kept;
/// whatever feeds it ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Watch {
    states: watch::Receiver<State>,
    /// What was returned last.
    last: Snapshot,
}

/// The feeding end of a [`Watch`], for the authors of back ends.
///
/// Dropping it tells every watch that the back end is gone.
#[derive(Debug)]
pub struct WatchSender {
    states: watch::Sender<State>,
}

#[derive(Debug, Clone)]
enum State {
    Known(Snapshot),
    Gone(RegistryError),
}

impl Watch {
    /// A watch whose first [`changed`](Self::changed) returns `initial`, and its feeding end.
    pub fn channel(initial: Vec<Instance>) -> (WatchSender, Watch) {
        let (states, _) = watch::channel(State::Known(Snapshot::of(initial)));
        let sender = WatchSender { states };
        let watch = sender.subscribe();
        (sender, watch)
    }

    /// Waits for a state that this watch has not returned yet: the first call returns the present
    /// one at once, later calls wait for a change. Changes in quick succession are coalesced; only
    /// the latest state counts, and its [`change`](Snapshot::change) is what differs from the state
    /// that this watch returned before, or from nobody.
    ///
    /// # Errors
    ///
    /// When the back end is gone and no newer state will come, this and every later call fails
    /// with the reason.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has consumed nothing; the next call returns what it would have returned.
    pub async fn changed(&mut self) -> Result<Snapshot, RegistryError> {
        let ended = self.states.changed().await.is_err();
        // A copy, so that the sender does not wait while lists are compared.
        let state = self.states.borrow_and_update().clone();
        match state {
            State::Gone(reason) => Err(reason),
            State::Known(_) if ended => {
                Err(RegistryError::unavailable("the watch has ended: its registry is gone")
                    .with_hint("connect to the registry and watch again"))
            }
            State::Known(snapshot) => {
                let snapshot = snapshot.since(&self.last);
                self.last = snapshot.clone();
                Ok(snapshot)
            }
        }
    }
}

impl WatchSender {
    /// Publishes the living instances, ordered by id. Nothing happens if they are as before.
    pub fn send(&self, instances: Vec<Instance>) {
        self.publish(Snapshot::of(instances));
    }

    /// Publishes a state that may not be what the registry says now. Nothing happens if it is as
    /// before.
    pub fn publish(&self, snapshot: Snapshot) {
        self.states.send_if_modified(|state| match state {
            State::Known(known) if known.says_the_same(&snapshot) => false,
            _ => {
                *state = State::Known(snapshot);
                true
            }
        });
    }

    /// Ends every watch with `reason`, after which they return nothing else.
    pub fn fail(self, reason: RegistryError) {
        self.states.send_replace(State::Gone(reason));
    }

    /// One more watch, whose first [`changed`](Watch::changed) returns the present state.
    pub fn subscribe(&self) -> Watch {
        let mut states = self.states.subscribe();
        states.mark_changed();
        Watch { states, last: Snapshot::default() }
    }

    /// Whether nobody watches any more.
    pub fn is_closed(&self) -> bool {
        self.states.is_closed()
    }

    /// Waits until nobody watches any more. Cancel safe.
    pub async fn closed(&self) {
        self.states.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn instance(id: &str) -> Instance {
        Instance::new("svc", "tcp://127.0.0.1:1").with_id(id)
    }

    #[tokio::test]
    async fn first_call_returns_the_present_state_at_once() {
        let (sender, mut watch) = Watch::channel(vec![instance("a")]);
        assert_eq!(watch.changed().await.unwrap().instances[0].id(), "a");
        let mut late = sender.subscribe();
        assert_eq!(late.changed().await.unwrap().instances.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_list_again_is_not_a_change() {
        let list = vec![instance("a")];
        let (sender, mut watch) = Watch::channel(list.clone());
        watch.changed().await.unwrap();
        sender.send(list);
        assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn quick_changes_are_coalesced_into_the_latest() {
        let (sender, mut watch) = Watch::channel(vec![]);
        watch.changed().await.unwrap();
        sender.send(vec![instance("a")]);
        sender.send(vec![instance("b")]);
        assert_eq!(watch.changed().await.unwrap().instances[0].id(), "b");
    }

    #[tokio::test]
    async fn all_watches_of_a_service_share_its_list() {
        let (sender, mut one) = Watch::channel(vec![instance("a")]);
        let mut other = sender.subscribe();
        let (one, other) = (one.changed().await.unwrap(), other.changed().await.unwrap());
        assert!(std::sync::Arc::ptr_eq(&one.instances, &other.instances));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_loses_no_change() {
        let (sender, mut watch) = Watch::channel(vec![]);
        watch.changed().await.unwrap();
        assert!(timeout(Duration::from_millis(1), watch.changed()).await.is_err());
        sender.send(vec![instance("a")]);
        assert_eq!(watch.changed().await.unwrap().instances.len(), 1);
    }

    #[tokio::test]
    async fn the_last_state_is_delivered_before_the_end() {
        let (sender, mut watch) = Watch::channel(vec![]);
        watch.changed().await.unwrap();
        sender.send(vec![instance("a")]);
        drop(sender);
        assert_eq!(watch.changed().await.unwrap().instances.len(), 1);
        assert!(watch.changed().await.unwrap_err().is_unavailable());
    }

    #[tokio::test]
    async fn the_reason_of_a_failure_reaches_every_later_call() {
        let (sender, mut watch) = Watch::channel(vec![]);
        sender.fail(RegistryError::timeout("too late"));
        assert!(watch.changed().await.unwrap_err().is_timeout());
        assert!(watch.changed().await.unwrap_err().is_timeout());
    }

    #[test]
    fn waiting_can_be_spawned() {
        fn spawnable<T: Send + 'static>(_: T) {}
        let (_sender, mut watch) = Watch::channel(vec![]);
        spawnable(async move { watch.changed().await });
    }

    #[tokio::test]
    async fn the_sender_hears_when_the_last_watch_is_dropped() {
        let (sender, watch) = Watch::channel(vec![]);
        let second = watch.clone();
        drop(watch);
        assert!(!sender.is_closed());
        drop(second);
        sender.closed().await;
    }
}
