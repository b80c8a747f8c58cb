//! Metrics of each call.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Label};
use tracing::Span;

use super::{Observer, names, spans};
use crate::descriptor::MethodDescriptor;
use crate::status::Status;

/// Number of statuses.
const STATUSES: usize = 14;

/// The metric handles of one method at one side.
pub(crate) struct CallMetrics {
    observer: Observer,
    method: &'static MethodDescriptor,
    in_flight: Gauge,
    duration: Histogram,
    /// Created when a call first ends with the status: few methods have more than three.
    ended: [OnceLock<Counter>; STATUSES],
}

impl CallMetrics {
    /// `None` if metrics are off.
    pub(crate) fn new(observer: Observer, method: &'static MethodDescriptor) -> Option<Arc<Self>> {
        observer.metrics.then(|| Arc::new(Self::made(observer, method)))
    }

    fn made(observer: Observer, method: &'static MethodDescriptor) -> Self {
        let labels = labels(method);
        Self {
            observer,
            method,
            in_flight: observer.gauge(&names::CALLS_IN_FLIGHT, labels.clone()),
            duration: observer.histogram(&names::CALL_DURATION, labels),
            ended: [const { OnceLock::new() }; STATUSES],
        }
    }

    #[inline]
    pub(crate) fn began(&self) {
        self.in_flight.increment(1);
    }

    #[inline]
    pub(crate) fn ended(&self, status: Status, took: Duration) {
        self.in_flight.decrement(1);
        self.duration.record(took);
        let (at, code) = names::status_code(status);
        if let Some(ended) = self.ended.get(at) {
            let make = || {
                let mut labels = labels(self.method);
                labels.push(Label::from_static_parts(names::STATUS, code));
                self.observer.counter(&names::CALLS, labels)
            };
            ended.get_or_init(make).increment(1);
        }
    }
}

fn labels(method: &'static MethodDescriptor) -> Vec<Label> {
    vec![
        Label::from_static_parts(names::SERVICE, method.service().name()),
        Label::new(names::METHOD, method.to_string()),
    ]
}

/// The metric handles of the methods that a client has called, found without a lock.
pub(crate) struct MethodMetrics {
    observer: Observer,
    slots: [OnceLock<Box<CallMetrics>>; SLOTS],
    /// MethodMetrics for which no slot was free.
    more: OnceLock<Box<MethodMetrics>>,
}

/// Slots for methods. Most contracts have fewer.
const SLOTS: usize = 16;
/// Slots that are probed for a method.
const PROBES: usize = 4;

impl MethodMetrics {
    /// `None` if metrics are off.
    pub(crate) fn new(observer: Observer) -> Option<Arc<Self>> {
        observer.metrics.then(|| Arc::new(Self::empty(observer)))
    }

    fn empty(observer: Observer) -> Self {
        Self { observer, slots: [const { OnceLock::new() }; SLOTS], more: OnceLock::new() }
    }

    /// The handles of a method, created by its first call.
    #[inline]
    pub(crate) fn of(&self, method: &'static MethodDescriptor) -> &CallMetrics {
        let mut table = self;
        loop {
            for step in 0..PROBES {
                // The id is already a hash.
                let at = (method.id() as usize).wrapping_add(step) % SLOTS;
                let Some(slot) = table.slots.get(at) else { continue };
                let known = slot.get_or_init(|| Box::new(CallMetrics::made(self.observer, method)));
                if known.method.id() == method.id() {
                    return known;
                }
            }
            table = table.more.get_or_init(|| Box::new(Self::empty(self.observer)));
        }
    }
}

/// A call that is observed from begin to end. Dropping it before its end counts as cancelled.
pub(crate) struct ObservedCall<M: Deref<Target = CallMetrics>> {
    /// `None` if metrics are off.
    metrics: Option<M>,
    /// The time of its begin, while it is in flight.
    begun: Option<Instant>,
    span: Span,
}

/// A call of a client, which borrows the handles.
pub(crate) type ClientCall<'c> = ObservedCall<&'c CallMetrics>;
/// A call that can move to another task.
pub(crate) type OwnedCall = ObservedCall<Arc<CallMetrics>>;

impl<'c> ClientCall<'c> {
    /// A call that has not begun yet.
    #[inline]
    pub(crate) fn new(
        methods: Option<&'c MethodMetrics>,
        method: &'static MethodDescriptor,
    ) -> Self {
        let metrics = methods.map(|methods| methods.of(method));
        Self { metrics, begun: None, span: spans::client_call(method) }
    }

    #[inline]
    pub(crate) fn begin(&mut self, now: Instant) {
        if let Some(metrics) = self.metrics {
            metrics.began();
            self.begun = Some(now);
        }
    }
}

impl OwnedCall {
    /// A call that was already counted as begun.
    pub(crate) fn running(metrics: Option<Arc<CallMetrics>>, begun: Instant, span: Span) -> Self {
        Self { metrics, begun: Some(begun), span }
    }

    /// A call whose response was sent and counted, and whose stream continues.
    pub(crate) fn response_sent(span: Span) -> Self {
        Self { metrics: None, begun: None, span }
    }
}

impl<M: Deref<Target = CallMetrics>> ObservedCall<M> {
    /// The span in which the work for this call runs.
    #[inline]
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    #[inline]
    pub(crate) fn ended(&mut self, status: Status) {
        self.count(status);
        spans::ended(&self.span, status);
    }

    /// Reads the clock only if metrics are on.
    #[inline]
    fn count(&mut self, status: Status) {
        if let (Some(metrics), Some(begun)) = (&self.metrics, self.begun.take()) {
            metrics.ended(status, clock().saturating_duration_since(begun));
        }
    }
}

impl<M: Deref<Target = CallMetrics>> Drop for ObservedCall<M> {
    #[inline]
    fn drop(&mut self) {
        self.count(Status::Cancelled);
    }
}

/// The channel's clock, which this module cannot import.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
