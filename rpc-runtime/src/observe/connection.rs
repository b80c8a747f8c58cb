//! Metrics of each connection.

use metrics::Counter;

use super::{Observer, names};

/// The metrics of an open connection, until [`closed`](Self::closed).
pub(crate) struct ConnectionMetrics {
    received: Counter,
    sent: Counter,
}

impl ConnectionMetrics {
    pub(crate) fn opened(observer: Observer) -> Self {
        observer.counter(&names::CONNECTIONS_OPENED, Vec::new()).increment(1);
        observer.gauge(&names::CONNECTIONS_OPEN, Vec::new()).increment(1);
        Self {
            received: observer.counter(&names::RECEIVED, Vec::new()),
            sent: observer.counter(&names::SENT, Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn received(&self, bytes: usize) {
        self.received.increment(bytes as u64);
    }

    #[inline]
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.increment(bytes as u64);
    }

    /// Must be called once, with the observer of [`opened`](Self::opened).
    pub(crate) fn closed(&self, observer: Observer) {
        observer.counter(&names::CONNECTIONS_CLOSED, Vec::new()).increment(1);
        observer.gauge(&names::CONNECTIONS_OPEN, Vec::new()).decrement(1);
    }
}
