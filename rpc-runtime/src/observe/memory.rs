//! The gauge of a memory budget.

use metrics::Gauge;

use super::{Observer, names};

/// The gauge of a budget. All budgets of a process with the same side share one gauge.
pub(crate) struct MemoryMetrics(Gauge);

impl MemoryMetrics {
    pub(crate) fn new(observer: Observer) -> Self {
        Self(observer.gauge(&names::MEMORY_USED, Vec::new()))
    }

    /// Changes the gauge from the previous to the current number of bytes.
    pub(crate) fn changed(&self, before: usize, now: usize) {
        if now >= before {
            self.0.increment((now - before) as f64);
        } else {
            self.0.decrement((before - now) as f64);
        }
    }
}
