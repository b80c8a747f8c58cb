//! [`News`]: what the events of a persistent recursive watch say. No I/O.

use std::collections::BTreeSet;

use tokio::time::Instant;
use zookeeper_client::{EventType, SessionState, WatchedEvent};

use super::paths::name;

/// What is to be read anew, and who has left.
///
/// An entry's data changes once in its life: when it leaves in order, in the transaction that
/// removes it. A node that is removed after a change of its data has therefore left; one that is
/// merely removed has lapsed. The server sends both events, in this order, and before any answer
/// that shows the node gone.
pub(super) struct News {
    /// The path of the service's node, with a slash.
    prefix: String,
    /// All is to be read: nothing is known, or events may be missing.
    pub(super) all: bool,
    /// The ids that are to be read.
    pub(super) touched: BTreeSet<String>,
    /// Those whose data has changed since they were read.
    changed: BTreeSet<String>,
    departed: BTreeSet<String>,
    /// Since when the session is disconnected, if it is.
    pub(super) away_since: Option<Instant>,
    /// The session has ended.
    pub(super) ended: bool,
    /// The session has been disconnected since the last list.
    pub(super) faulted: bool,
}

impl News {
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
            // The server does not repeat what is missed meanwhile (ZOOKEEPER-4698).
            _ => {
                self.away_since = Some(self.away_since.unwrap_or(now));
                self.all = true;
                self.faulted = true;
                self.changed.clear();
            }
        }
    }

    /// Whether there is nothing to be read.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.touched.is_empty()
    }

    /// All that was to be read has been, except what was told meanwhile.
    pub(super) fn done(&mut self) {
        self.all = false;
        self.touched.clear();
    }

    /// It was read and is there, so a change of its data was not its departure.
    pub(super) fn is_there(&mut self, id: &str) {
        self.changed.remove(id);
    }

    /// Who has left in order and is not there, each once.
    pub(super) fn departed(&mut self, is_there: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let (later, gone) =
            std::mem::take(&mut self.departed).into_iter().partition(|id| is_there(id));
        self.departed = later;
        gone
    }

    /// Whether there was a fault since this was asked last.
    pub(super) fn fault(&mut self) -> bool {
        std::mem::take(&mut self.faulted)
    }
}

#[cfg(test)]
mod tests {
    use EventType::{NodeCreated, NodeDataChanged, NodeDeleted};

    use super::*;

    fn after(events: &[(EventType, &str)]) -> News {
        let mut news = News::of("/rpc/svc");
        news.done();
        for (event, path) in events {
            news.take(WatchedEvent::new(*event, *path), Instant::now());
        }
        news
    }

    fn session(news: &mut News, state: SessionState) {
        news.take(WatchedEvent::new_session(state), Instant::now());
    }

    #[test]
    fn a_removal_after_a_change_is_a_departure_and_one_without_is_not() {
        let mut news = after(&[
            (NodeCreated, "/rpc/svc/a"),
            (NodeCreated, "/rpc/svc/b"),
            (NodeDataChanged, "/rpc/svc/a"),
            (NodeDeleted, "/rpc/svc/a"),
            (NodeDeleted, "/rpc/svc/b"),
        ]);
        assert!(news.touched.iter().eq(["a", "b"]));
        assert!(news.departed(|_| false).iter().eq(["a"]));
        assert!(news.departed(|_| false).is_empty(), "told once");
    }

    #[test]
    fn one_who_came_back_has_not_departed() {
        let left = [(NodeDataChanged, "/rpc/svc/a"), (NodeDeleted, "/rpc/svc/a")];
        let mut news = after(&[left[0], left[1], (NodeCreated, "/rpc/svc/a")]);
        assert!(news.departed(|_| false).is_empty());
    }

    #[test]
    fn a_departure_is_told_with_the_list_that_lacks_it() {
        let mut news = after(&[(NodeDataChanged, "/rpc/svc/a"), (NodeDeleted, "/rpc/svc/a")]);
        assert!(news.departed(|_| true).is_empty(), "the read was older");
        assert!(news.departed(|_| false).iter().eq(["a"]));
    }

    #[test]
    fn a_change_by_hand_and_a_lapse_later_are_no_departure() {
        let mut news = after(&[(NodeDataChanged, "/rpc/svc/a")]);
        news.is_there("a");
        news.take(WatchedEvent::new(NodeDeleted, "/rpc/svc/a"), Instant::now());
        assert!(news.departed(|_| false).is_empty());
    }

    #[test]
    fn after_a_disconnection_all_is_read_and_the_fault_is_told() {
        let mut news = after(&[]);
        assert!(news.is_empty() && !news.fault());
        session(&mut news, SessionState::Disconnected);
        assert!(news.away_since.is_some() && news.all);
        session(&mut news, SessionState::SyncConnected);
        assert!(news.away_since.is_none() && news.all && !news.ended);
        news.done();
        assert!(news.fault() && !news.fault());
        session(&mut news, SessionState::Expired);
        assert!(news.ended);
    }

    #[test]
    fn other_nodes_are_nobody() {
        let news = after(&[
            (NodeDataChanged, "/rpc/svc"),
            (NodeCreated, "/rpc/svc/a/b"),
            (NodeCreated, "/rpc/svc2/a"),
            (NodeCreated, "/rpc/svc/%zz"),
        ]);
        assert!(news.is_empty());
    }
}
