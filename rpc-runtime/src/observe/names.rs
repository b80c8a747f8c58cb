//! The names of metrics and labels.
//!
//! Prometheus' conventions for names and units, OpenTelemetry's words for RPC (semantic conventions
//! 1.45): its `rpc.client.call.duration` reads as `rpc_client_call_duration_seconds` there. The side
//! is in the name, since the sum of both would count each call twice where a process has both ends.

use metrics::{Recorder, Unit};

use super::Side;
use crate::status::Status;

pub(super) const SERVICE: &str = "rpc_service";
/// With its service, as OpenTelemetry has it: names of methods alone repeat.
pub(super) const METHOD: &str = "rpc_method";
pub(super) const STATUS: &str = "rpc_response_status_code";
pub(super) const REASON: &str = "reason";
pub(super) const OUTCOME: &str = "outcome";
pub(super) const POOL: &str = "pool";
pub(super) const WHAT: &str = "what";

/// The index of a status among all statuses, and its name in labels and spans.
pub(super) fn status_code(status: Status) -> (usize, &'static str) {
    match status {
        Status::Ok => (0, "ok"),
        Status::Application => (1, "application"),
        Status::Decode => (2, "decode"),
        Status::NotFound => (3, "not_found"),
        Status::Timeout => (4, "timeout"),
        Status::Cancelled => (5, "cancelled"),
        Status::Overloaded => (6, "overloaded"),
        Status::TooLarge => (7, "too_large"),
        Status::Unavailable => (8, "unavailable"),
        Status::Internal => (9, "internal"),
        Status::Protocol => (10, "protocol"),
        Status::Invalid => (11, "invalid"),
        Status::Unauthenticated => (12, "unauthenticated"),
        Status::PermissionDenied => (13, "permission_denied"),
    }
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric, under its name at each side that has it.
pub(super) struct Metric {
    client: Option<&'static str>,
    server: Option<&'static str>,
    kind: Kind,
    unit: Unit,
    text: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident($unit:ident) $side:ident $name:literal, $text:literal;)*) => {
        $(pub(super) const $id: Metric = Metric {
            client: metrics!(@client $side $name),
            server: metrics!(@server $side $name),
            kind: Kind::$kind,
            unit: Unit::$unit,
            text: $text,
        };)*
        static ALL: &[Metric] = &[$($id),*];
    };
    (@client server $name:literal) => { None };
    (@client $side:ident $name:literal) => { Some(concat!("rpc_client_", $name)) };
    (@server client $name:literal) => { None };
    (@server $side:ident $name:literal) => { Some(concat!("rpc_server_", $name)) };
}

metrics! {
    CALLS: Counter(Count) both "calls_total", "Calls that have ended";
    CALL_DURATION: Histogram(Seconds) both "call_duration_seconds", "From a call's begin to its end";
    CALLS_IN_FLIGHT: Gauge(Count) both "calls_in_flight", "Calls that have begun and not ended";
    CONNECTIONS_OPEN: Gauge(Count) both "connections_open", "Connections that are open";
    CONNECTIONS_OPENED: Counter(Count) both "connections_opened_total", "Connections that were opened";
    CONNECTIONS_CLOSED: Counter(Count) both "connections_closed_total", "Connections that have ended";
    CONNECTIONS_REFUSED: Counter(Count) server "connections_refused_total", "Connections that were not served";
    CONNECTIONS_RETIRED: Counter(Count) both "connections_retired_total", "Connections that were drained because of their age or their peer's certificate";
    RECEIVED: Counter(Bytes) both "received_bytes_total", "Bytes read from connections";
    SENT: Counter(Bytes) both "sent_bytes_total", "Bytes written to connections";
    REQUESTS_REFUSED: Counter(Count) server "requests_refused_total", "Requests that reached no method";
    REQUESTS_IN_WORK: Gauge(Count) server "requests_in_work", "Requests that run outside of their connection's task";
    POOL_JOBS_QUEUED: Gauge(Count) server "pool_jobs_queued", "Jobs that wait for a thread";
    POOL_THREADS_BUSY: Gauge(Count) server "pool_threads_busy", "Threads that run a job";
    CONNECTIONS_ENDED: Counter(Count) both "connections_ended_total", "Connections that this end has closed because of the peer's behaviour";
    MEMORY_USED: Gauge(Bytes) both "memory_used_bytes", "Memory that connections hold, without the free part of each";
    MEMORY_WAITS: Counter(Count) both "memory_waits_total", "Waits of connections for memory";
    MEMORY_REFUSED: Counter(Count) both "memory_refused_total", "What was dropped because there was no memory for it";
    HEARTBEATS_SENT: Counter(Count) both "heartbeats_sent_total", "Pings that were sent";
    HEARTBEATS_MISSED: Counter(Count) both "heartbeats_missed_total", "Pings that were not answered in time";
    HEARTBEAT_RTT: Histogram(Seconds) both "heartbeat_rtt_seconds", "From a ping to its pong";
    RECONNECTS: Counter(Count) client "reconnects_total", "Attempts to make a lost connection again";
    DRAINS: Counter(Count) both "drains_total", "Endings that let calls in work finish";
}

impl Metric {
    pub(super) fn name(&self, side: Side) -> Option<&'static str> {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    pub(super) fn describe(&self, name: &'static str, recorder: &dyn Recorder) {
        let describe = match self.kind {
            Kind::Counter => Recorder::describe_counter,
            Kind::Gauge => Recorder::describe_gauge,
            Kind::Histogram => Recorder::describe_histogram,
        };
        describe(recorder, name.into(), Some(self.unit), self.text.into());
    }
}

/// The metrics that this side has.
pub(super) fn of(side: Side) -> impl Iterator<Item = (&'static Metric, &'static str)> {
    ALL.iter().filter_map(move |metric| Some((metric, metric.name(side)?)))
}
