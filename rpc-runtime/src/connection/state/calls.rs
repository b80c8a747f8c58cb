//! This end's calls: from their request to their outcome.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::{ConnectionState, Effects};
use crate::connection::in_flight::{Completion, Removed};
use crate::connection::streams::Outgoing;
use crate::error::RpcError;
use crate::protocol::{Frame, Header, Kind, Output};

/// What is to be sent: a header without id and length, and the encoded payload.
pub(crate) struct Request<'r> {
    pub(crate) header: Header,
    /// The answer's payload takes its place.
    pub(crate) body: &'r mut Output,
    pub(crate) deadline: Instant,
    /// The time just now.
    pub(crate) now: Instant,
}

impl Request<'_> {
    pub(crate) fn is_oneway(&self) -> bool {
        self.header.kind == Kind::Oneway
    }
}

pub(crate) enum CallError {
    /// The channel takes no new calls. Nothing was sent; another channel may do.
    NotOpen(RpcError),
    Failed(RpcError),
}

/// What has become of a call that begins.
pub(in crate::connection) enum Begun {
    /// It waits for room on the connection.
    Queued,
    Sent {
        /// The caller has promised to flush, after the others had their turn.
        promised: bool,
        /// For the items that follow the request.
        outgoing: Option<Arc<Outgoing>>,
    },
}

impl ConnectionState {
    /// Enters a call into the table and, if there is room, its frame into the output. Returns its id
    /// in the table. `uploads`: items follow the request.
    pub(in crate::connection) fn begin_call(
        &mut self,
        request: &mut Request<'_>,
        uploads: bool,
        waker: &Waker,
        effects: &mut Effects,
    ) -> Result<(u64, Begun), CallError> {
        if request.deadline <= request.now {
            return Err(CallError::Failed(timed_out(false)));
        }
        self.accepts(request.body.len())?;
        if self.is_writable() && self.in_flight.has_room() {
            let id = self.in_flight.insert(waker.clone(), request.deadline);
            let begun = self.send_request(id, request, uploads, effects)?;
            return Ok((id, begun));
        }
        let bytes = request.body.len();
        let id = self.in_flight.enqueue(waker.clone(), bytes, request.deadline);
        Ok((id, Begun::Queued))
    }

    /// Sends a call that waited for room, if it was admitted. `None`: it was not, or is over.
    pub(in crate::connection) fn resume_call(
        &mut self,
        id: u64,
        request: &mut Request<'_>,
        uploads: bool,
        waker: &Waker,
        effects: &mut Effects,
    ) -> Option<Result<Begun, CallError>> {
        if !self.in_flight.start_if_admitted(id, waker) {
            return None;
        }
        let refused = match self.accepts(request.body.len()) {
            Ok(()) if request.deadline > request.now => {
                return Some(self.send_request(id, request, uploads, effects));
            }
            Ok(()) => CallError::Failed(timed_out(false)),
            Err(error) => error,
        };
        self.in_flight.remove(id);
        Some(Err(refused))
    }

    /// Writes the frame of a call that is in the table as sent.
    fn send_request(
        &mut self,
        id: u64,
        request: &mut Request<'_>,
        uploads: bool,
        effects: &mut Effects,
    ) -> Result<Begun, CallError> {
        let now = request.now;
        let oneway = request.is_oneway();
        let deadline_ms = remaining_ms(request.deadline, now);
        let header = Header { id: if oneway { 0 } else { id }, deadline_ms, ..request.header };
        let written = self.write(Frame::taking(header, request.body), now);
        let alone = self.in_flight.sent() == 1;
        if let Err(error) = written {
            self.in_flight.remove(id);
            return Err(CallError::Failed(error.unexecuted()));
        }
        if oneway {
            self.in_flight.remove(id);
        }
        let enough = self.settings.flush_after(self.in_flight.sent(), self.flushing.split);
        let claimed = self.flushing.duty.claim();
        // At once if no other call is under way that could add to the same write, or so many have
        // that the peer is to begin. Otherwise after the others had their turn.
        let at_once = self.flushing.has_gathered(enough) || (claimed && alone);
        let promised = claimed && !at_once;
        if at_once {
            effects.flush = Some(now);
        } else if promised {
            self.flushing.promise(now);
        }
        let outgoing = uploads.then(|| self.open_outgoing(id, effects));
        Ok(Begun::Sent { promised, outgoing })
    }

    /// The outcome of a call, if there is one; the id is then gone. Otherwise `waker` is woken when
    /// there is. The body of an answer takes the place of what is in `buffer`.
    #[inline]
    pub(in crate::connection) fn poll_call(
        &mut self,
        id: u64,
        waker: &Waker,
        buffer: &mut Vec<u8>,
    ) -> Option<Completion> {
        self.in_flight.poll(id, waker, buffer)
    }

    /// The caller has gone. Its room is the next one's, and the peer is told if it works on the
    /// call.
    pub(in crate::connection) fn drop_call(
        &mut self,
        id: u64,
        now: Instant,
        effects: &mut Effects,
    ) -> Removed {
        let removed = self.in_flight.remove(id);
        if removed == Removed::Sent {
            let cancel = Header { id, ..Header::new(Kind::Cancel) };
            // Not being able to tell the peer costs it some work, nothing else.
            let _ = self.send(Frame::bare(cancel), now, effects);
        }
        removed
    }

    /// Whether a new call with a payload of `bytes` bytes may be sent here.
    #[inline]
    fn accepts(&self, bytes: usize) -> Result<(), CallError> {
        if let Some(error) = self.lifecycle.refused() {
            return Err(CallError::NotOpen(error.clone().unexecuted()));
        }
        self.peer.fits(bytes).map_err(CallError::Failed)
    }
}

/// Why a call ended whose deadline has passed.
pub(in crate::connection) fn timed_out(sent: bool) -> RpcError {
    if sent {
        RpcError::timeout("the deadline passed; the request was sent and not answered in time")
    } else {
        RpcError::timeout("the deadline passed before the request could be sent").unexecuted()
    }
}

/// What is left of the deadline as it travels: whole milliseconds, rounded up; 0 would mean "none".
fn remaining_ms(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    let rounded_up = left.as_nanos().div_ceil(1_000_000);
    u32::try_from(rounded_up).unwrap_or(u32::MAX).max(1)
}
