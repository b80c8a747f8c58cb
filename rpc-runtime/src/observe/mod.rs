//! What can be seen from outside: metrics and spans, and the one home of their names.
//!
//! The rest of the crate says what happened (`observer.heartbeat_missed()`) and knows no name.
//! What there is, with labels and units, is in `docs/observability.md`; a test compares.
//!
//! What happens with each call goes through handles that are made once ([`CallMetrics`]). Without
//! a recorder such a handle is empty, and counting is a look at that. What happens seldom looks its
//! handle up.

mod calls;
mod connection;
mod events;
mod memory;
mod names;
mod spans;
#[cfg(test)]
mod tests;
mod work;

pub(crate) use calls::{CallMetrics, ClientCall, Methods, OwnedCall};
pub(crate) use connection::ConnectionMetrics;
pub(crate) use events::{
    DrainOutcome, EndedConnection, RefusedConnection, RefusedMemory, RefusedRequest,
    RetiredConnection,
};
pub(crate) use memory::MemoryMetrics;
pub(crate) use spans::{connection, ended, sent, server_call};
pub(crate) use work::{PoolMetrics, WorkMetrics};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, with_recorder};

use self::names::Metric;

/// Which end of a connection counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Counts what one end does, or does not if metrics are off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer {
    side: Side,
    metrics: bool,
}

static METADATA: Metadata<'static> =
    Metadata::new("rpc_runtime", Level::INFO, Some("rpc_runtime::observe"));

impl Observer {
    pub(crate) const fn new(side: Side, metrics: bool) -> Self {
        Self { side, metrics }
    }

    /// The end whose metrics these are.
    pub(crate) const fn side(self) -> Side {
        self.side
    }

    /// Tells the recorder units and descriptions. Once for each client and server, so that a
    /// recorder that is installed between two of them learns them too.
    pub(crate) fn describe(self) {
        if !self.metrics {
            return;
        }
        with_recorder(|recorder| {
            for (metric, name) in names::of(self.side) {
                metric.describe(name, recorder);
            }
        });
    }

    fn key(self, metric: &Metric, labels: Vec<Label>) -> Option<Key> {
        let name = metric.name(self.side).filter(|_| self.metrics)?;
        Some(Key::from_parts(name, labels))
    }

    fn counter(self, metric: &Metric, labels: Vec<Label>) -> Counter {
        let key = self.key(metric, labels);
        key.map_or_else(Counter::noop, |key| with_recorder(|r| r.register_counter(&key, &METADATA)))
    }

    fn gauge(self, metric: &Metric, labels: Vec<Label>) -> Gauge {
        let key = self.key(metric, labels);
        key.map_or_else(Gauge::noop, |key| with_recorder(|r| r.register_gauge(&key, &METADATA)))
    }

    fn histogram(self, metric: &Metric, labels: Vec<Label>) -> Histogram {
        let key = self.key(metric, labels);
        key.map_or_else(Histogram::noop, |key| {
            with_recorder(|r| r.register_histogram(&key, &METADATA))
        })
    }
}
