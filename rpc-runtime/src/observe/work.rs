//! Metrics of the running requests and thread pools of a server.

use metrics::{Gauge, Label};

use super::{Observer, names};

/// Requests that run in separate tasks.
pub(crate) struct WorkMetrics {
    in_work: Gauge,
}

impl WorkMetrics {
    pub(crate) fn new(observer: Observer) -> Self {
        Self { in_work: observer.gauge(&names::REQUESTS_IN_WORK, Vec::new()) }
    }

    pub(crate) fn began(&self) {
        self.in_work.increment(1);
    }

    pub(crate) fn ended(&self) {
        self.in_work.decrement(1);
    }
}

/// Jobs and threads of one pool.
pub(crate) struct PoolMetrics {
    queued: Gauge,
    busy: Gauge,
}

impl PoolMetrics {
    /// `pool` is the value of the label.
    pub(crate) fn new(observer: Observer, pool: &'static str) -> Self {
        let labels = || vec![Label::from_static_parts(names::POOL, pool)];
        Self {
            queued: observer.gauge(&names::POOL_JOBS_QUEUED, labels()),
            busy: observer.gauge(&names::POOL_THREADS_BUSY, labels()),
        }
    }

    pub(crate) fn queued(&self) {
        self.queued.increment(1);
    }

    /// A job left the queue without running.
    pub(crate) fn taken_back(&self) {
        self.queued.decrement(1);
    }

    /// A job left the queue and started.
    pub(crate) fn began(&self) {
        self.queued.decrement(1);
        self.busy.increment(1);
    }

    pub(crate) fn ended(&self) {
        self.busy.decrement(1);
    }
}
