//! The names of metrics and labels.
//!
//! Names and units follow the conventions of Prometheus, the words those of OpenTelemetry for RPC
//! (semantic conventions 1.45): its `rpc.client.call.duration` becomes
//! `rpc_client_call_duration_seconds`. The side is part of the name: in a process with both ends, a
//! sum over one metric must count each call once.

use metrics::{Recorder, Unit};

use super::side::Side;
use crate::status::Status;

pub(super) const SERVICE: &str = "rpc_service";
/// `Service/method`, as in OpenTelemetry, since method names alone are not unique.
pub(super) const METHOD: &str = "rpc_method";
pub(super) const STATUS: &str = "rpc_status_code";
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

/// Whether a call with this status has failed, as OpenTelemetry counts failures. An error of the
/// contract is an outcome that the contract expects.
pub(super) fn is_failure(status: Status) -> bool {
    !matches!(status, Status::Ok | Status::Application)
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric, with its name at each side.
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
    CALL_DURATION: Histogram(Seconds) both "call_duration_seconds", "Duration of calls";
    CALLS_IN_FLIGHT: Gauge(Count) both "calls_in_flight", "Calls in progress";
    CONNECTIONS_OPEN: Gauge(Count) both "connections_open", "Open connections";
    CONNECTIONS_OPENED: Counter(Count) both "connections_opened_total", "Connections that were opened";
    CONNECTIONS_CLOSED: Counter(Count) both "connections_closed_total", "Connections that have ended";
    CONNECTIONS_REFUSED: Counter(Count) server "connections_refused_total", "Connections that were not served";
    CONNECTIONS_RETIRED: Counter(Count) both "connections_retired_total", "Connections that were drained because of their age or the certificate of the peer";
    RECEIVED: Counter(Bytes) both "received_bytes_total", "Bytes read from connections";
    SENT: Counter(Bytes) both "sent_bytes_total", "Bytes written to connections";
    REQUESTS_REFUSED: Counter(Count) server "requests_refused_total", "Requests that reached no method";
    REQUESTS_IN_WORK: Gauge(Count) server "requests_in_work", "Requests that run in separate tasks";
    POOL_JOBS_QUEUED: Gauge(Count) server "pool_jobs_queued", "Jobs that wait for a thread";
    POOL_THREADS_BUSY: Gauge(Count) server "pool_threads_busy", "Threads that run a job";
    CONNECTIONS_ENDED: Counter(Count) both "connections_ended_total", "Connections that this end closed because of the behaviour of the peer";
    MEMORY_USED: Gauge(Bytes) both "memory_used_bytes", "Memory held by connections, without the free part of each";
    MEMORY_WAITS: Counter(Count) both "memory_waits_total", "Waits of connections for memory";
    MEMORY_REFUSED: Counter(Count) both "memory_refused_total", "Responses, requests and streams that were dropped for lack of memory";
    HEARTBEATS_SENT: Counter(Count) both "heartbeats_sent_total", "Pings that were sent";
    HEARTBEATS_MISSED: Counter(Count) both "heartbeats_missed_total", "Pings that were not answered in time";
    HEARTBEAT_RTT: Histogram(Seconds) both "heartbeat_rtt_seconds", "Round-trip time of pings";
    RECONNECTS: Counter(Count) client "reconnects_total", "Attempts to reconnect";
    DRAINS: Counter(Count) both "drains_total", "Drains of clients and servers";
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

/// The metrics of a side, with their names.
pub(super) fn of(side: Side) -> impl Iterator<Item = (&'static Metric, &'static str)> {
    ALL.iter().filter_map(move |metric| Some((metric, metric.name(side)?)))
}
