//! The tail of the pipeline: what frames of the peer change.

use bytes::Bytes;
use rpc_registry::limited;

use super::effects::Effects;
use super::lifecycle::Lifecycle;
use super::peer::Peer;
use super::work::Work;

use crate::connection::in_flight::InFlight;
use crate::connection::remote_error::read_error;
use crate::connection::streams::{Streams, Unwanted};
use crate::error::RpcError;
use crate::observe::Side;
use crate::pipeline::Tail;
use crate::protocol::{Body, Flags, Frame, Header, Hello, KEPT_WHOLE, Kind, blob, error_frame};
use crate::status::Status;

/// The tail of a channel's pipeline.
pub(super) enum ChannelTail<'c, 'a> {
    /// While bytes are being read.
    Reading(Reading<'c, 'a>),
    /// At all other times: frames that handlers send here are kept for the driver.
    Aside(&'c mut Vec<Frame<'static>>),
}

/// The requests of one batch.
pub(super) struct Arrived<'c, 'a> {
    /// For the driver to hand on once the lock is released.
    pub(super) requests: &'c mut Vec<Frame<'a>>,
    /// How many more may be taken.
    pub(super) room: usize,
    /// The bytes that are looked at, if parts of them may be kept.
    pub(super) shared: Option<&'c Bytes>,
}

impl Arrived<'_, '_> {
    /// A payload that is large enough to be kept where it is.
    fn keep(&self, body: &Body<'_>) -> Option<Bytes> {
        match body {
            Body::Owned(bytes) => Some(bytes.clone()).filter(|bytes| bytes.len() >= KEPT_WHOLE),
            Body::Slice(part) if part.len() >= KEPT_WHOLE => {
                // A handler may have put another payload in the place of the one that was read.
                blob::part_of(self.shared?, part)
            }
            Body::Pieces(pieces) => Some(pieces.whole().clone()),
            Body::Slice(_) | Body::TooLarge { .. } => None,
        }
    }
}

/// What frames of the peer change.
pub(super) struct Reading<'c, 'a> {
    pub(super) in_flight: &'c mut InFlight,
    pub(super) work: &'c mut Work,
    pub(super) streams: &'c mut Streams,
    pub(super) lifecycle: &'c mut Lifecycle,
    pub(super) peer: &'c mut Peer,
    /// Which end this is.
    pub(super) side: Side,
    pub(super) effects: &'c mut Effects,
    pub(super) arrived: Arrived<'c, 'a>,
    /// What is to be said to the peer once the batch is through.
    pub(super) replies: Vec<Frame<'static>>,
    /// Why the connection is to be closed, if the peer said something that leaves no other way.
    pub(super) fatal: Option<RpcError>,
}

impl<'c> ChannelTail<'c, '_> {
    #[inline]
    pub(super) fn aside(inbox: &'c mut Vec<Frame<'static>>) -> Self {
        Self::Aside(inbox)
    }
}

impl<'a> Tail<'a> for ChannelTail<'_, 'a> {
    #[inline]
    fn read(&mut self, frame: Frame<'a>) {
        match self {
            Self::Reading(reading) => reading.read(frame),
            Self::Aside(inbox) => inbox.push(frame.into_owned()),
        }
    }

    fn accepts(&self) -> bool {
        match self {
            Self::Reading(reading) => {
                reading.arrived.requests.len() < reading.arrived.room && reading.fatal.is_none()
            }
            Self::Aside(_) => true,
        }
    }

    fn write_failed(&mut self, header: &Header, error: RpcError) {
        limited!(warn, kind = ?header.kind, %error, "a pipeline handler's write failed");
    }
}

impl<'a> Reading<'_, 'a> {
    #[inline]
    fn read(&mut self, frame: Frame<'a>) {
        match frame.header.kind {
            Kind::Request | Kind::Oneway => self.request(frame),
            Kind::Response => self.response(&frame),
            _ => self.control(&frame),
        }
    }

    #[inline]
    fn request(&mut self, mut frame: Frame<'a>) {
        if let Some(whole) = self.arrived.keep(&frame.body) {
            frame.body = Body::Owned(whole);
        }
        if frame.header.flags.contains(Flags::STREAM) {
            // Its items may be next in this very batch.
            self.streams.open_incoming(frame.header.id, &mut self.effects.wakers);
        }
        self.arrived.requests.push(frame);
    }

    #[inline]
    fn response(&mut self, frame: &Frame<'_>) {
        let Header { id, flags, length, .. } = frame.header;
        let unusable = match frame.body {
            Body::TooLarge { limit } => Some(RpcError::new(
                Status::TooLarge,
                format!("the answer has {length} bytes, the limit is {limit} bytes"),
            )),
            _ if !flags.are_understood() => Some(RpcError::protocol(format!(
                "the answer has {flags:?}, not all understood here"
            ))),
            _ => None,
        };
        let usable = unusable.is_none();
        let waker = match unusable {
            None => {
                let whole = self.arrived.keep(&frame.body);
                self.in_flight.answer(frame.header, frame.body.as_slice(), whole)
            }
            Some(error) => self.in_flight.fail(id, error),
        };
        if flags.contains(Flags::STREAM) {
            if usable && waker.is_some() {
                self.streams.open_incoming(id, &mut self.effects.wakers);
            } else {
                // Nobody will take its items.
                self.stop_sender(id);
            }
        }
        // None: an answer to a call that timed out or was dropped, or to none at all.
        waker.into_iter().for_each(|caller| self.effects.wake_caller(caller));
    }

    fn stop_sender(&mut self, id: u64) {
        self.replies.push(Frame::bare(Header { id, ..Header::new(Kind::Cancel) }));
    }

    fn control(&mut self, frame: &Frame<'_>) {
        let header = &frame.header;
        match header.kind {
            Kind::Cancel => {
                self.take_back(header.id);
                self.work.cancel(header.id, &mut self.effects.aborts);
                self.streams.cancel_outgoing(header.id, &mut self.effects.wakers);
            }
            Kind::StreamData | Kind::StreamCredit | Kind::StreamEnd => {
                let whole = self.arrived.keep(&frame.body);
                let read = self.streams.read(frame, whole, &mut self.effects.wakers);
                read.unwrap_or_else(|Unwanted| self.stop_sender(header.id));
            }
            Kind::GoAway => self.goaway(),
            // Only the first is of interest: it was said before anything relied on it.
            Kind::Hello if !self.peer.has_greeted() => self.hello(frame.body.as_slice()),
            Kind::Error => self.error(frame),
            _ => {}
        }
    }

    /// The peer is about to close.
    fn goaway(&mut self) {
        let cause = RpcError::unavailable("the peer is shutting down and takes no new calls");
        if self.lifecycle.drain(cause.clone(), &mut self.effects.wakers) {
            // They were not sent, so another channel may do.
            self.in_flight.fail_queued(&cause, &mut self.effects.wakers);
        }
    }

    fn hello(&mut self, body: &[u8]) {
        match Hello::decode(body) {
            Ok(mut hello) => {
                if self.side == Side::Server {
                    // Of use to those who call: a client is not to make a server keep them.
                    hello.forget_services();
                }
                let requests = (hello.max_requests > 0).then_some(hello.max_requests as usize);
                self.in_flight.greeted(requests);
                self.streams.greeted(hello.stream_window);
                self.effects.heartbeat_told |= hello.heartbeat_ms > 0;
                self.peer.greet(hello, &mut self.effects.wakers);
            }
            Err(error) => {
                let error = RpcError::protocol(format!("the hello is damaged: {error}"));
                self.replies.push(error_frame(0, &error));
                self.fatal = Some(error);
            }
        }
    }

    /// A call that is dropped right after it was sent: its request is in this very batch, and is not
    /// begun.
    fn take_back(&mut self, id: u64) {
        let given_up =
            |request: &Frame<'_>| request.header.id == id && request.header.kind == Kind::Request;
        if let Some(at) = self.arrived.requests.iter().rposition(given_up) {
            self.arrived.requests.remove(at);
            self.streams.forget_incoming(id);
        }
    }

    /// The peer could make nothing of a frame of ours, or of the connection.
    fn error(&mut self, frame: &Frame<'_>) {
        let error = read_error(&frame.header, frame.body.as_slice());
        if frame.header.id == 0 {
            self.peer.set_error(error);
        } else {
            let waker = self.in_flight.fail(frame.header.id, error);
            waker.into_iter().for_each(|caller| self.effects.wake_caller(caller));
        }
    }
}
