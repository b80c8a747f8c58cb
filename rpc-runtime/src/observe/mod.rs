//! Metrics and spans, with their names.
//!
//! The rest of the crate reports events (`observer.heartbeat_missed()`) and contains no names.
//! `docs/observability.md` lists all of them with labels and units; a test compares it with the
//! code.
//!
//! Events of each call use cached handles ([`CallMetrics`]). Without a recorder, a handle is empty
//! and counting costs one check. Rare events look up their handles.

mod calls;
mod connection;
mod events;
mod memory;
mod names;
mod side;
mod spans;
#[cfg(test)]
mod tests;
#[cfg(feature = "opentelemetry")]
mod trace_context;
mod work;

pub(crate) use calls::{CallMetrics, ClientCall, MethodMetrics, OwnedCall};
pub(crate) use connection::ConnectionMetrics;
pub(crate) use events::{
    CloseReason, ConnectionRefusal, DrainOutcome, MemoryRefusal, RequestRefusal, RetireReason,
};
pub(crate) use memory::MemoryMetrics;
pub(crate) use side::Side;
pub(crate) use spans::{connection, ended, sent, server_call};
#[cfg(feature = "opentelemetry")]
pub(crate) use trace_context::{continue_trace, inject_trace};
pub(crate) use work::{PoolMetrics, WorkMetrics};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, with_recorder};

use self::names::Metric;

/// Records the metrics of one end, unless metrics are off.
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

    /// The end whose metrics it records.
    pub(crate) const fn side(self) -> Side {
        self.side
    }

    /// Registers units and descriptions with the recorder. Called for each client and server, since
    /// a recorder may be installed between two of them.
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
