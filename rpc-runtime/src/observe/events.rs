//! Metrics of rare events, whose handles are looked up each time.

use std::time::Duration;

use metrics::Label;

use super::{Observer, names};
use crate::status::Status;

/// Why a request reached no method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestRefusal {
    /// No such method is provided.
    NotFound,
    /// Its payload is over the limit.
    TooLarge,
    /// The request breaks the rules of the protocol.
    Malformed,
    /// Its connection has too many running requests.
    ConnectionFull,
    /// The server is near its limit of running requests, and the connection has its share.
    ServerFull,
}

impl RequestRefusal {
    /// The reason for a request that was answered with this status before it reached a method.
    pub(crate) fn from_status(status: Status) -> Self {
        match status {
            Status::NotFound => Self::NotFound,
            Status::TooLarge => Self::TooLarge,
            Status::Overloaded => Self::ConnectionFull,
            _ => Self::Malformed,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::ConnectionFull => "connection_full",
            Self::ServerFull => "server_full",
        }
    }
}

/// Why a connection was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionRefusal {
    /// The server has its maximum number of connections.
    ServerFull,
    /// The address has its maximum number of connections.
    AddressFull,
    /// The handshake failed or took too long.
    Handshake,
    /// The server is shutting down.
    Draining,
}

impl ConnectionRefusal {
    const fn label(self) -> &'static str {
        match self {
            Self::ServerFull => "server_full",
            Self::AddressFull => "address_full",
            Self::Handshake => "handshake",
            Self::Draining => "draining",
        }
    }
}

/// Why an open connection is drained while its process keeps running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetireReason {
    /// It has reached the server's maximum age.
    Age,
    /// Its peer is no longer trusted.
    Distrust,
}

impl RetireReason {
    const fn label(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Distrust => "distrust",
        }
    }
}

/// Why an open connection was ended by this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer read the waiting output too slowly.
    SlowReader,
    /// The peer sent a frame too slowly.
    SlowSender,
    /// It held the most memory while others waited.
    Memory,
}

impl CloseReason {
    const fn label(self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
            Self::SlowSender => "slow_sender",
            Self::Memory => "memory",
        }
    }
}

/// What was dropped for lack of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryRefusal {
    /// The response of a method; the caller gets an error.
    Answer,
    /// A request that was not started; the caller gets an error.
    Request,
    /// Buffered stream items; their stream ends.
    Stream,
}

impl MemoryRefusal {
    const fn label(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Request => "request",
            Self::Stream => "stream",
        }
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainOutcome {
    /// All calls have finished.
    Complete,
    /// The drain timeout has passed, or the drain was interrupted.
    CutOff,
}

impl Observer {
    /// A request was answered with an error before it reached a method.
    pub(crate) fn request_refused(self, reason: RequestRefusal) {
        self.count(&names::REQUESTS_REFUSED, Some((names::REASON, reason.label())));
    }

    /// A connection was accepted and closed without being served.
    pub(crate) fn connection_refused(self, reason: ConnectionRefusal) {
        self.count(&names::CONNECTIONS_REFUSED, Some((names::REASON, reason.label())));
    }

    /// An open connection is drained.
    pub(crate) fn connection_retired(self, reason: RetireReason) {
        self.count(&names::CONNECTIONS_RETIRED, Some((names::REASON, reason.label())));
    }

    /// An open connection is closed by this end.
    pub(crate) fn connection_ended(self, reason: CloseReason) {
        self.count(&names::CONNECTIONS_ENDED, Some((names::REASON, reason.label())));
    }

    /// A connection must wait for memory.
    pub(crate) fn waited_for_memory(self) {
        self.count(&names::MEMORY_WAITS, None);
    }

    /// Something was dropped for lack of memory.
    pub(crate) fn memory_refused(self, what: MemoryRefusal) {
        self.count(&names::MEMORY_REFUSED, Some((names::WHAT, what.label())));
    }

    /// A ping was written.
    pub(crate) fn heartbeat_sent(self) {
        self.count(&names::HEARTBEATS_SENT, None);
    }

    /// A ping was not answered in time.
    pub(crate) fn heartbeat_missed(self) {
        self.count(&names::HEARTBEATS_MISSED, None);
    }

    /// A pong was received this long after its ping.
    pub(crate) fn heartbeat_answered(self, after: Duration) {
        self.histogram(&names::HEARTBEAT_RTT, Vec::new()).record(after);
    }

    /// An attempt to reconnect has ended.
    pub(crate) fn reconnected(self, connected: bool) {
        let outcome = if connected { "connected" } else { "failed" };
        self.count(&names::RECONNECTS, Some((names::OUTCOME, outcome)));
    }

    /// A client or server was drained.
    pub(crate) fn drained(self, outcome: DrainOutcome) {
        let outcome = match outcome {
            DrainOutcome::Complete => "complete",
            DrainOutcome::CutOff => "cut_off",
        };
        self.count(&names::DRAINS, Some((names::OUTCOME, outcome)));
    }
}

impl Observer {
    fn count(self, metric: &names::Metric, label: Option<(&'static str, &'static str)>) {
        let label = label.map(|(key, value)| Label::from_static_parts(key, value));
        self.counter(metric, label.into_iter().collect()).increment(1);
    }
}
