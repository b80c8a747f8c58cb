use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::with_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tracing::Span;

use super::*;
use crate::descriptor::{MethodDescriptor, ServiceKey};
use crate::status::Status;

static METHOD: MethodDescriptor =
    MethodDescriptor::new(ServiceKey::new("S", "1.0.0", ""), "m", &[], "()");

const ON: Observer = Observer::new(Side::Client, true);

/// Type, unit and labels.
type Shape = (String, String, BTreeSet<String>);

/// The tables of the documentation.
fn documented() -> BTreeMap<String, Shape> {
    let mut documented = BTreeMap::new();
    for line in include_str!("../../../docs/observability.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &["", name, kind, unit, labels, _, ""] = cells.as_slice() else { continue };
        let Some(name) = name.strip_prefix("`rpc_") else { continue };
        let name = format!("rpc_{}", name.trim_end_matches('`'));
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        for side in ["client", "server"] {
            let shape: Shape = (kind.into(), unit.into(), BTreeSet::clone(&labels));
            documented.insert(name.replace('…', side), shape);
        }
    }
    documented
}

/// What a recorder was told while `run` ran.
fn recorded(run: impl FnOnce()) -> BTreeMap<String, Shape> {
    let recorder = DebuggingRecorder::new();
    with_local_recorder(&recorder, run);
    let seen = recorder.snapshotter().snapshot().into_vec();
    let shape =
        |(key, unit, text, value): (metrics_util::CompositeKey, Option<_>, Option<_>, _)| {
            let kind = match value {
                DebugValue::Counter(_) => "counter",
                DebugValue::Gauge(_) => "gauge",
                DebugValue::Histogram(_) => "histogram",
            };
            let unit: Option<metrics::Unit> = unit;
            assert!(text.is_some(), "{key:?} has no description");
            let labels = key.key().labels().map(|label| label.key().to_owned()).collect();
            let unit = unit.map_or("", |unit| unit.as_str()).to_owned();
            (key.key().name().to_owned(), (kind.to_owned(), unit, labels))
        };
    seen.into_iter().map(shape).collect()
}

fn everything(observer: Observer) {
    observer.describe();
    let metrics = CallMetrics::new(observer, &METHOD);
    let now = Instant::now();
    metrics.iter().for_each(|metrics| metrics.began());
    OwnedCall::running(metrics, now, Span::none()).ended(Status::Ok);
    let connection = ConnectionMetrics::opened(observer);
    connection.received(1);
    connection.sent(1);
    connection.closed(observer);
    let (work, pool) = (WorkMetrics::new(observer), PoolMetrics::new(observer, "blocking"));
    work.began();
    work.ended();
    pool.queued();
    pool.began();
    pool.ended();
    observer.request_refused(RequestRefusal::NotFound);
    observer.connection_refused(ConnectionRefusal::Handshake);
    observer.connection_retired(RetireReason::Age);
    observer.connection_ended(CloseReason::SlowReader);
    observer.waited_for_memory();
    observer.memory_refused(MemoryRefusal::Stream);
    MemoryMetrics::new(observer).changed(0, 1);
    observer.heartbeat_sent();
    observer.heartbeat_missed();
    observer.heartbeat_answered(Duration::from_millis(1));
    observer.reconnected(true);
    observer.drained(DrainOutcome::Complete);
}

#[test]
fn the_documentation_has_each_metric_with_its_type_unit_and_labels_and_no_other() {
    let seen = recorded(|| {
        everything(Observer::new(Side::Client, true));
        everything(Observer::new(Side::Server, true));
    });
    assert!(seen.len() > 20, "{seen:?}");
    assert_eq!(seen, documented());
}

#[test]
fn what_is_turned_off_tells_a_recorder_nothing() {
    let seen = recorded(|| everything(Observer::new(Side::Server, false)));
    assert!(seen.is_empty(), "{seen:?}");
}

/// Status and number of the calls that have ended, and those in flight.
fn calls(run: impl FnOnce()) -> (Vec<(String, u64)>, f64) {
    let recorder = DebuggingRecorder::new();
    with_local_recorder(&recorder, run);
    let (mut ended, mut in_flight) = (Vec::new(), 0.0);
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        match value {
            DebugValue::Counter(count) => {
                let status = key.key().labels().find(|label| label.key() == names::STATUS);
                ended.push((status.unwrap().value().to_owned(), count));
            }
            DebugValue::Gauge(value) => in_flight += value.into_inner(),
            DebugValue::Histogram(_) => {}
        }
    }
    ended.sort();
    (ended, in_flight)
}

#[test]
fn a_call_ends_once_and_one_that_is_dropped_was_cancelled() {
    let (ended, in_flight) = calls(|| {
        let methods = MethodMetrics::new(ON);
        let begin = || {
            let mut call = ClientCall::new(methods.as_deref(), &METHOD);
            call.begin(Instant::now());
            call
        };
        let mut call = begin();
        call.ended(Status::Timeout);
        call.ended(Status::Ok);
        drop(call);
        drop(begin());
        // It has not begun, so it does not end.
        drop(ClientCall::new(methods.as_deref(), &METHOD));
        OwnedCall::response_sent(Span::none()).ended(Status::Ok);
        std::mem::forget(begin());
    });
    let expected = [("cancelled", 1), ("timeout", 1)];
    assert_eq!(ended, expected.map(|(status, count)| (status.to_owned(), count)));
    assert_eq!(in_flight, 1.0);
}

#[test]
fn each_method_of_many_has_handles_of_its_own_that_are_made_once() {
    let methods: Vec<&'static MethodDescriptor> = (0..200)
        .map(|at| {
            let name: &'static str = Box::leak(format!("m{at}").into());
            let key = ServiceKey::new("S", "1.0.0", "");
            &*Box::leak(Box::new(MethodDescriptor::new(key, name, &[], "()")))
        })
        .collect();
    let table = MethodMetrics::new(ON).unwrap();
    let handles = || methods.iter().map(|method| std::ptr::from_ref(table.of(method)));
    let distinct: BTreeSet<_> = handles().collect();
    assert_eq!(distinct.len(), methods.len());
    assert!(handles().all(|handle| distinct.contains(&handle)));
    assert!(MethodMetrics::new(Observer::new(Side::Client, false)).is_none());
}

#[test]
fn each_status_has_a_place_and_a_code_of_its_own() {
    let statuses: BTreeSet<_> =
        (0..=u16::MAX).map(|number| names::status_code(Status::from_wire(number))).collect();
    let places: Vec<usize> = statuses.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, (0..14).collect::<Vec<_>>());
    let text = include_str!("../../../docs/observability.md");
    for (_, code) in statuses {
        assert!(text.contains(&format!("`{code}`")), "{code} is not documented");
    }
}

#[test]
fn a_handle_that_was_kept_counts_where_it_was_made() {
    let recorder = DebuggingRecorder::new();
    let metrics = with_local_recorder(&recorder, || CallMetrics::new(ON, &METHOD));
    // The counter of a status is made when the first call ends so.
    with_local_recorder(&recorder, || {
        OwnedCall::running(metrics.clone(), Instant::now(), Span::none()).ended(Status::Ok);
    });
    OwnedCall::running(metrics.clone(), Instant::now(), Span::none()).ended(Status::Ok);
    let seen = recorder.snapshotter().snapshot().into_vec();
    assert!(seen.iter().any(|(_, _, _, value)| *value == DebugValue::Counter(2)), "{seen:?}");
    assert_eq!(Arc::strong_count(&metrics.unwrap()), 1);
}
