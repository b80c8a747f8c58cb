use tokio::sync::watch;

use crate::{Instance, RegistryError, Snapshot};

/// Follows the living instances of one service.
///
/// Made by [`Registry::watch`](crate::Registry::watch). The registry need not be kept. The task
/// behind the watch ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Watch {
    states: watch::Receiver<WatchState>,
    /// The snapshot that was returned last.
    last: Snapshot,
}

/// The sending end of a [`Watch`]. Dropping it ends all its watches.
#[doc(hidden)]
#[derive(Debug)]
pub struct WatchSender {
    states: watch::Sender<WatchState>,
}

#[derive(Debug, Clone)]
enum WatchState {
    Known(Snapshot),
    Ended(RegistryError),
}

impl Watch {
    /// A watch whose first [`changed`](Self::changed) returns `initial`, and its sending end.
    #[doc(hidden)]
    pub fn channel(initial: Vec<Instance>) -> (WatchSender, Watch) {
        let (states, _) = watch::channel(WatchState::Known(Snapshot::of(initial)));
        let sender = WatchSender { states };
        let watch = sender.subscribe();
        (sender, watch)
    }

    /// Waits for a snapshot that this watch has not returned yet. The first call returns the
    /// current one at once, later calls wait for a change. Changes in quick succession are
    /// coalesced: the latest snapshot is returned, and its [`change`](Snapshot::change) is the
    /// difference from the one that this watch returned before, or from an empty list.
    ///
    /// # Errors
    ///
    /// If the registry is gone and no newer snapshot will come, this and every later call fails
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
            WatchState::Ended(reason) => Err(reason),
            WatchState::Known(_) if ended => {
                Err(RegistryError::unavailable("the watch has ended: its registry is gone")
                    .with_hint("connect to the registry and watch again"))
            }
            WatchState::Known(snapshot) => {
                let snapshot = snapshot.since(&self.last);
                self.last = snapshot.clone();
                Ok(snapshot)
            }
        }
    }
}

impl WatchSender {
    /// Publishes the living instances, ordered by id. Nothing happens if they have not changed.
    pub fn send(&self, instances: Vec<Instance>) {
        self.publish(Snapshot::of(instances));
    }

    /// Publishes a snapshot. Nothing happens if it equals the last one.
    pub fn publish(&self, snapshot: Snapshot) {
        self.states.send_if_modified(|state| match state {
            WatchState::Known(known) if known.has_same_content(&snapshot) => false,
            _ => {
                *state = WatchState::Known(snapshot);
                true
            }
        });
    }

    /// Ends every watch with `reason`.
    pub fn fail(self, reason: RegistryError) {
        self.states.send_replace(WatchState::Ended(reason));
    }

    /// Another watch, whose first [`changed`](Watch::changed) returns the current snapshot.
    pub fn subscribe(&self) -> Watch {
        let mut states = self.states.subscribe();
        states.mark_changed();
        Watch { states, last: Snapshot::default() }
    }

    /// Whether there is no watch.
    pub fn is_closed(&self) -> bool {
        self.states.is_closed()
    }

    /// Waits until there is no watch. Cancel safe.
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
