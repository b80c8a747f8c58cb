//! [`PendingChanges`]: the effect of the events of a persistent recursive watch. No I/O.

use std::collections::BTreeSet;

use tokio::time::Instant;
use zookeeper_client::{EventType, SessionState, WatchedEvent};

use super::paths::name;

/// The nodes that must be read again, and the departed ids.
///
/// The data of a node changes once: when its instance leaves in order, in the transaction that
/// removes it. So a node that is removed after a change of its data has left in order, and a node
/// that is only removed has expired. The server sends both events, in this order, and before any
/// response without the node.
pub(super) struct PendingChanges {
    /// The path of the service's node, with a slash.
    prefix: String,
    /// Whether the whole list must be read: nothing is known, or events may be missing.
    pub(super) all: bool,
    /// The ids that must be read.
    pub(super) touched: BTreeSet<String>,
    /// The ids whose data has changed since they were read.
    changed: BTreeSet<String>,
    departed: BTreeSet<String>,
    /// Since when the session is disconnected.
    pub(super) away_since: Option<Instant>,
    /// Whether the session has ended.
    pub(super) ended: bool,
    /// Whether the session was disconnected since the last list.
    pub(super) faulted: bool,
}

impl PendingChanges {
    pub(super) fn of(service: &str) -> Self {
        Self {
            prefix: format!("{service}/"),
            all: true,
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            departed: BTreeSet::new(),
            away_since: None,
            ended: false,
            faulted: false,
        }
    }

    pub(super) fn take(&mut self, event: WatchedEvent, now: Instant) {
        if event.event_type == EventType::Session {
            return self.session(event.session_state, now);
        }
        let Some(id) = event.path.strip_prefix(&self.prefix).and_then(name) else { return };
        match event.event_type {
            EventType::NodeCreated => {
                self.changed.remove(&id);
                self.departed.remove(&id);
            }
            EventType::NodeDataChanged => {
                self.changed.insert(id.clone());
            }
            EventType::NodeDeleted if self.changed.remove(&id) => {
                self.departed.insert(id.clone());
            }
            _ => {}
        }
        self.touched.insert(id);
    }

    fn session(&mut self, state: SessionState, now: Instant) {
        match state {
            SessionState::SyncConnected => self.away_since = None,
            state if state.is_terminated() => self.ended = true,
            // The server does not repeat missed events (ZOOKEEPER-4698).
            _ => {
                self.away_since = Some(self.away_since.unwrap_or(now));
                self.all = true;
                self.faulted = true;
                self.changed.clear();
            }
        }
    }

    /// Whether nothing must be read.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.touched.is_empty()
    }

    /// All pending nodes were read.
    pub(super) fn done(&mut self) {
        self.all = false;
        self.touched.clear();
    }

    /// The node was read and exists, so a change of its data was not a departure.
    pub(super) fn is_there(&mut self, id: &str) {
        self.changed.remove(id);
    }

    /// The ids that have left in order and do not exist, each once.
    pub(super) fn departed(&mut self, is_there: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let (later, gone) =
            std::mem::take(&mut self.departed).into_iter().partition(|id| is_there(id));
        self.departed = later;
        gone
    }

    /// Whether there was a fault since the last call.
    pub(super) fn fault(&mut self) -> bool {
        std::mem::take(&mut self.faulted)
    }
}

#[cfg(test)]
mod tests {
    use EventType::{NodeCreated, NodeDataChanged, NodeDeleted};

    use super::*;

    fn after(events: &[(EventType, &str)]) -> PendingChanges {
        let mut pending = PendingChanges::of("/rpc/svc");
        pending.done();
        for (event, path) in events {
            pending.take(WatchedEvent::new(*event, *path), Instant::now());
        }
        pending
    }

    fn session(pending: &mut PendingChanges, state: SessionState) {
        pending.take(WatchedEvent::new_session(state), Instant::now());
    }

    #[test]
    fn a_removal_after_a_change_is_a_departure_and_one_without_is_not() {
        let mut pending = after(&[
            (NodeCreated, "/rpc/svc/a"),
            (NodeCreated, "/rpc/svc/b"),
            (NodeDataChanged, "/rpc/svc/a"),
            (NodeDeleted, "/rpc/svc/a"),
            (NodeDeleted, "/rpc/svc/b"),
        ]);
        assert!(pending.touched.iter().eq(["a", "b"]));
        assert!(pending.departed(|_| false).iter().eq(["a"]));
        assert!(pending.departed(|_| false).is_empty(), "told once");
    }

    #[test]
    fn one_who_came_back_has_not_departed() {
        let left = [(NodeDataChanged, "/rpc/svc/a"), (NodeDeleted, "/rpc/svc/a")];
        let mut pending = after(&[left[0], left[1], (NodeCreated, "/rpc/svc/a")]);
        assert!(pending.departed(|_| false).is_empty());
    }

    #[test]
    fn a_departure_is_told_with_the_list_that_lacks_it() {
        let mut pending = after(&[(NodeDataChanged, "/rpc/svc/a"), (NodeDeleted, "/rpc/svc/a")]);
        assert!(pending.departed(|_| true).is_empty(), "the read was older");
        assert!(pending.departed(|_| false).iter().eq(["a"]));
    }

    #[test]
    fn a_change_by_hand_and_a_lapse_later_are_no_departure() {
        let mut pending = after(&[(NodeDataChanged, "/rpc/svc/a")]);
        pending.is_there("a");
        pending.take(WatchedEvent::new(NodeDeleted, "/rpc/svc/a"), Instant::now());
        assert!(pending.departed(|_| false).is_empty());
    }

    #[test]
    fn after_a_disconnection_all_is_read_and_the_fault_is_told() {
        let mut pending = after(&[]);
        assert!(pending.is_empty() && !pending.fault());
        session(&mut pending, SessionState::Disconnected);
        assert!(pending.away_since.is_some() && pending.all);
        session(&mut pending, SessionState::SyncConnected);
        assert!(pending.away_since.is_none() && pending.all && !pending.ended);
        pending.done();
        assert!(pending.fault() && !pending.fault());
        session(&mut pending, SessionState::Expired);
        assert!(pending.ended);
    }

    #[test]
    fn other_nodes_are_nobody() {
        let pending = after(&[
            (NodeDataChanged, "/rpc/svc"),
            (NodeCreated, "/rpc/svc/a/b"),
            (NodeCreated, "/rpc/svc2/a"),
            (NodeCreated, "/rpc/svc/%zz"),
        ]);
        assert!(pending.is_empty());
    }
}
