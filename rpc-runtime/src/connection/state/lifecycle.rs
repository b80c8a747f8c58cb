//! [`Lifecycle`]: from the first frame of a connection to its end.

use std::task::Waker;
use std::time::Instant;

use crate::error::RpcError;

/// Where a connection is in its life. It only moves on.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Calls are sent and taken.
    Open,
    /// One of the ends has announced that the connection ends. What is under way goes on.
    Draining(Draining),
    /// Nothing more is read. What was written still leaves.
    Closing {
        cause: RpcError,
        /// What was written last says that the connection ends, or why, and is not to be lost.
        told: bool,
    },
    Closed(RpcError),
}

/// Who has announced the end. At least one of the two is set.
#[derive(Debug, PartialEq, Eq)]
struct Draining {
    /// Why this end sends no new calls; `None` if only the peer is to send none.
    refused: Option<RpcError>,
    /// Set once the peer was told to send no new calls: when a peer that has never greeted is given
    /// up.
    told: Option<Instant>,
}

/// The phase of a connection, and who is told when no new calls are taken.
pub(in crate::connection) struct Lifecycle {
    phase: Phase,
    watcher: Option<Waker>,
}

impl Lifecycle {
    pub(in crate::connection) fn new() -> Self {
        Self { phase: Phase::Open, watcher: None }
    }

    /// Why no new calls are sent; `None` while they are.
    #[inline]
    pub(in crate::connection) fn refused(&self) -> Option<&RpcError> {
        match &self.phase {
            Phase::Open => None,
            Phase::Draining(draining) => draining.refused.as_ref(),
            Phase::Closing { cause, .. } | Phase::Closed(cause) => Some(cause),
        }
    }

    /// Wakes `waker` once no new calls are sent. If that is so already, returns why.
    pub(in crate::connection) fn watch(&mut self, waker: Waker) -> Option<RpcError> {
        let why = self.refused().cloned();
        if why.is_none() {
            self.watcher = Some(waker);
        }
        why
    }

    /// Why the connection has ended, if it has.
    #[inline]
    pub(in crate::connection) fn closed(&self) -> Option<&RpcError> {
        match &self.phase {
            Phase::Closed(cause) => Some(cause),
            _ => None,
        }
    }

    #[inline]
    pub(in crate::connection) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// An end was announced, or is under way.
    #[inline]
    pub(in crate::connection) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Draining(_) | Phase::Closing { .. })
    }

    /// The connection ends once nothing is under way.
    pub(in crate::connection) fn ends_when_idle(&self) -> bool {
        matches!(&self.phase, Phase::Draining(draining) if draining.refused.is_some())
    }

    /// When a peer that has never greeted is given up, if it was told of the end.
    pub(in crate::connection) fn told(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Draining(draining) => draining.told,
            _ => None,
        }
    }

    /// What was written last says that or why the connection ends, and is not to be lost.
    pub(in crate::connection) fn has_last_words(&self) -> bool {
        match &self.phase {
            Phase::Draining(_) => true,
            Phase::Closing { told, .. } => *told,
            Phase::Open | Phase::Closed(_) => false,
        }
    }

    /// Why a connection ends that comes to its announced end.
    pub(in crate::connection) fn announced_end(&self) -> RpcError {
        let refused = self.refused().filter(|_| self.told().is_none());
        refused.cloned().unwrap_or_else(|| RpcError::unavailable("this end was shut down"))
    }

    /// No new calls are sent. Returns whether that is new.
    pub(in crate::connection) fn drain(
        &mut self,
        cause: RpcError,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let told = match &mut self.phase {
            Phase::Open => None,
            Phase::Draining(Draining { refused: None, told }) => told.take(),
            _ => return false,
        };
        self.phase = Phase::Draining(Draining { refused: Some(cause), told });
        wakers.extend(self.watcher.take());
        true
    }

    /// The peer is told to send no new calls. Returns whether that is new.
    pub(in crate::connection) fn tell(&mut self, until: Option<Instant>) -> bool {
        match &mut self.phase {
            Phase::Open => {
                self.phase = Phase::Draining(Draining { refused: None, told: until });
                true
            }
            Phase::Draining(draining) if draining.told.is_none() => {
                draining.told = until;
                true
            }
            _ => false,
        }
    }

    /// A request has arrived, or some of one, after the peer was told: others may be on their way.
    #[inline]
    pub(in crate::connection) fn stay(&mut self, until: impl FnOnce() -> Option<Instant>) {
        if let Phase::Draining(Draining { told: told @ Some(_), .. }) = &mut self.phase {
            *told = until();
        }
    }

    /// Nothing more is read. `told`: the peer was told why. Returns whether that is new.
    pub(in crate::connection) fn begin_closing(
        &mut self,
        cause: &RpcError,
        told: bool,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let told = match &self.phase {
            Phase::Open => told,
            Phase::Draining(draining) => told || draining.told.is_some(),
            Phase::Closing { .. } | Phase::Closed(_) => return false,
        };
        self.phase = Phase::Closing { cause: cause.clone(), told };
        wakers.extend(self.watcher.take());
        true
    }

    /// The connection has ended. Returns whether that is new.
    pub(in crate::connection) fn close(
        &mut self,
        cause: RpcError,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        if self.is_closed() {
            return false;
        }
        self.phase = Phase::Closed(cause);
        wakers.extend(self.watcher.take());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn why(text: &str) -> RpcError {
        RpcError::unavailable(text)
    }

    #[test]
    fn an_end_that_only_told_its_peer_still_sends_calls_and_is_ended_by_the_peer() {
        let mut life = Lifecycle::new();
        let until = Instant::now() + Duration::from_secs(1);
        assert!(life.tell(Some(until)));
        assert!(!life.tell(None), "once is enough");
        assert!(life.refused().is_none() && !life.ends_when_idle());
        assert!(life.is_ending() && life.has_last_words());
        assert_eq!(life.told(), Some(until));
        assert!(life.drain(why("unused"), &mut Vec::new()));
        assert_eq!((life.told(), life.ends_when_idle()), (Some(until), true));
        assert!(life.announced_end().message().contains("shut down"));
    }

    #[test]
    fn a_life_only_moves_on_and_whoever_watches_is_woken_once() {
        let mut wakers = Vec::new();
        let mut life = Lifecycle::new();
        assert!(life.watch(Waker::noop().clone()).is_none());
        assert!(life.drain(why("drains"), &mut wakers));
        assert_eq!(wakers.len(), 1);
        assert!(!life.drain(why("again"), &mut wakers));
        assert!(life.begin_closing(&why("closing"), false, &mut wakers));
        assert!(!life.has_last_words(), "nothing was written of it");
        assert!(!life.begin_closing(&why("again"), true, &mut wakers));
        assert!(!life.tell(None) && !life.drain(why("again"), &mut wakers));
        assert!(life.close(why("closed"), &mut wakers));
        assert!(!life.close(why("again"), &mut wakers));
        assert!(!life.begin_closing(&why("again"), true, &mut wakers));
        assert_eq!(life.closed(), Some(&why("closed")));
        assert_eq!(life.watch(Waker::noop().clone()), Some(why("closed")));
        assert_eq!(wakers.len(), 1);
    }
}
