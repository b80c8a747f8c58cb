//! What is counted for each call.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Label};
use tracing::Span;

use super::{Observer, names, spans};
use crate::descriptor::MethodDescriptor;
use crate::status::Status;

/// How many statuses there are.
const STATUSES: usize = 14;

/// The handles of one method at one side.
pub(crate) struct CallMetrics {
    observer: Observer,
    method: &'static MethodDescriptor,
    in_flight: Gauge,
    duration: Histogram,
    /// Each is made when a call first ends so: few methods see more than three.
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

/// The handles of the methods that a client has called, found without a lock.
pub(crate) struct Methods {
    observer: Observer,
    slots: [OnceLock<Box<CallMetrics>>; SLOTS],
    /// For methods that found no slot here.
    more: OnceLock<Box<Methods>>,
}

/// Most contracts have fewer methods.
const SLOTS: usize = 16;
/// Slots that are looked at.
const PROBES: usize = 4;

impl Methods {
    /// `None` if metrics are off.
    pub(crate) fn new(observer: Observer) -> Option<Arc<Self>> {
        observer.metrics.then(|| Arc::new(Self::empty(observer)))
    }

    fn empty(observer: Observer) -> Self {
        Self { observer, slots: [const { OnceLock::new() }; SLOTS], more: OnceLock::new() }
    }

    /// The handles of this method, made when it is first called.
    #[inline]
    pub(crate) fn of(&self, method: &'static MethodDescriptor) -> &CallMetrics {
        let mut table = self;
        loop {
            for step in 0..PROBES {
                // An id is a hash already.
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

/// A call from its begin to its end. One that is dropped in between was cancelled.
pub(crate) struct ObservedCall<M: Deref<Target = CallMetrics>> {
    /// If metrics are on.
    metrics: Option<M>,
    /// While it is in flight.
    begun: Option<Instant>,
    span: Span,
}

/// A call of a client, which keeps the handles.
pub(crate) type ClientCall<'c> = ObservedCall<&'c CallMetrics>;
/// A call that goes on in a task of its own.
pub(crate) type OwnedCall = ObservedCall<Arc<CallMetrics>>;

impl<'c> ClientCall<'c> {
    /// A call that has not begun.
    #[inline]
    pub(crate) fn new(methods: Option<&'c Methods>, method: &'static MethodDescriptor) -> Self {
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
    /// A call that was counted as begun.
    pub(crate) fn running(metrics: Option<Arc<CallMetrics>>, begun: Instant, span: Span) -> Self {
        Self { metrics, begun: Some(begun), span }
    }

    /// A call that was counted as ended, and whose stream goes on.
    pub(crate) fn over(span: Span) -> Self {
        Self { metrics: None, begun: None, span }
    }
}

impl<M: Deref<Target = CallMetrics>> ObservedCall<M> {
    /// What runs for this call runs inside of it.
    #[inline]
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    #[inline]
    pub(crate) fn ended(&mut self, status: Status) {
        self.count(status);
        spans::ended(&self.span, status);
    }

    /// The clock is read only if it has to be.
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

/// The time as the channel has it, which this module is below.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
