//! Where frames end up that came through the pipeline.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_registry::limited;

use super::super::streams::{Streams, Unwanted};
use super::super::watchdog;
use super::work::Work;
use super::{Core, State};
use crate::connection::in_flight::InFlight;
use crate::error::RpcError;
use crate::handlers::MIN_REQUESTED_INTERVAL;
use crate::observe::Side;
use crate::pipeline::{Pipeline, Tail};
use crate::protocol::{
    Body, Flags, Frame, Header, Hello, KEPT_WHOLE, Kind, blob, error_frame, payload,
};
use crate::status::Status;

/// The tail of a channel's pipeline.
pub(in crate::connection) enum ChannelTail<'c, 'a> {
    /// While bytes are being read.
    Reading(Reading<'c, 'a>),
    /// At all other times: frames that handlers send here are kept for the driver.
    Aside(&'c mut Vec<Frame<'static>>),
}

/// The requests of one batch.
pub(in crate::connection) struct Arrived<'c, 'a> {
    /// For the driver to hand on once the lock is released.
    pub(in crate::connection) requests: &'c mut Vec<Frame<'a>>,
    /// How many more may be taken.
    pub(in crate::connection) room: usize,
    /// The bytes that are looked at, if parts of them may be kept.
    pub(in crate::connection) shared: Option<&'c Bytes>,
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

pub(in crate::connection) struct Reading<'c, 'a> {
    pub(in crate::connection) in_flight: &'c mut InFlight,
    pub(in crate::connection) work: &'c mut Work,
    pub(in crate::connection) streams: &'c mut Streams,
    pub(in crate::connection) state: &'c mut State,
    pub(in crate::connection) peer_hello: &'c mut Option<Arc<Hello>>,
    /// Which end this is.
    pub(in crate::connection) side: Side,
    pub(in crate::connection) await_hello: &'c mut Option<Waker>,
    pub(in crate::connection) await_end: &'c mut Option<Waker>,
    pub(in crate::connection) wakers: &'c mut Vec<Waker>,
    pub(in crate::connection) arrived: Arrived<'c, 'a>,
    /// What is to be said to the peer once the batch is through.
    pub(in crate::connection) replies: Vec<Frame<'static>>,
    /// Why the peer is about to close, if it said so.
    pub(in crate::connection) peer_error: &'c mut Option<RpcError>,
    /// Why the connection is to be closed, if the peer said something that leaves no other way.
    pub(in crate::connection) fatal: Option<RpcError>,
}

impl<'c> ChannelTail<'c, '_> {
    pub(in crate::connection) fn aside(inbox: &'c mut Vec<Frame<'static>>) -> Self {
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
            self.streams.open_incoming(frame.header.id, self.wakers);
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
                self.streams.open_incoming(id, self.wakers);
            } else {
                // Nobody will take its items.
                self.stop_sender(id);
            }
        }
        // None: an answer to a call that timed out or was dropped, or to none at all.
        self.wakers.extend(waker);
    }

    fn stop_sender(&mut self, id: u64) {
        self.replies.push(Frame::bare(Header { id, ..Header::new(Kind::Cancel) }));
    }

    fn control(&mut self, frame: &Frame<'_>) {
        let header = &frame.header;
        match header.kind {
            Kind::Cancel => {
                self.take_back(header.id);
                self.work.cancel(header.id);
                self.streams.cancel_outgoing(header.id, self.wakers);
            }
            Kind::StreamData | Kind::StreamCredit | Kind::StreamEnd => {
                let whole = self.arrived.keep(&frame.body);
                let read = self.streams.read(frame, whole, self.wakers);
                read.unwrap_or_else(|Unwanted| self.stop_sender(header.id));
            }
            Kind::GoAway if *self.state == State::Open => {
                let going_away = going_away();
                // They were not sent, so another channel may do.
                self.in_flight.fail_queued(&going_away, self.wakers);
                *self.state = State::Draining(going_away);
                self.wakers.extend(self.await_end.take());
            }
            // Only the first is of interest: it was said before anything relied on it.
            Kind::Hello if self.peer_hello.is_some() => {}
            Kind::Hello => match Hello::decode(frame.body.as_slice()) {
                Ok(mut hello) => {
                    if self.side == Side::Server {
                        // Of use to those who call: a client is not to make a server keep them.
                        hello.forget_services();
                    }
                    let requests = (hello.max_requests > 0).then_some(hello.max_requests as usize);
                    self.in_flight.greeted(requests);
                    self.streams.greeted(hello.stream_window);
                    let told = hello.heartbeat_ms;
                    *self.peer_hello = Some(Arc::new(hello));
                    if told > 0 {
                        let interval = Duration::from_millis(u64::from(told));
                        watchdog::expect_interval(interval.max(MIN_REQUESTED_INTERVAL));
                    }
                    self.wakers.extend(self.await_hello.take());
                }
                Err(error) => {
                    let error = RpcError::protocol(format!("the hello is damaged: {error}"));
                    self.replies.push(error_frame(0, &error));
                    self.fatal = Some(error);
                }
            },
            Kind::Error => self.error(frame),
            _ => {}
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
            *self.peer_error = Some(error);
        } else {
            self.wakers.extend(self.in_flight.fail(frame.header.id, error));
        }
    }
}

/// Why no new calls are sent to a peer that has said that it is about to close.
fn going_away() -> RpcError {
    RpcError::unavailable("the peer is shutting down and takes no new calls")
}

/// The error that a peer sent in a response or an error frame.
pub(crate) fn read_error(header: &Header, body: &[u8]) -> RpcError {
    let status = Status::from_wire(header.status);
    let error = match payload::decode::<RpcError>(body) {
        Ok(error) if error.status() == status => error,
        Ok(error) => RpcError::new(status, error.message()),
        Err(_) => {
            RpcError::new(status, format!("the peer answered \"{status}\" without saying more"))
        }
    };
    if header.flags.contains(Flags::UNEXECUTED) { error.unexecuted() } else { error }
}

impl Core {
    /// Runs the pipeline with a tail that takes in what comes out of it.
    pub(in crate::connection) fn reading<'a, R>(
        &mut self,
        now: Instant,
        wakers: &mut Vec<Waker>,
        arrived: Arrived<'_, 'a>,
        run: impl FnOnce(&mut Pipeline, &mut ChannelTail<'_, 'a>) -> R,
    ) -> R {
        let Self {
            pipeline,
            in_flight,
            work,
            streams,
            state,
            peer_hello,
            await_hello,
            await_end,
            peer_error,
            observer,
            ..
        } = self;
        let mut tail = ChannelTail::Reading(Reading {
            in_flight,
            work,
            streams,
            state,
            peer_hello,
            side: observer.side(),
            await_hello,
            await_end,
            peer_error,
            wakers,
            arrived,
            replies: Vec::new(),
            fatal: None,
        });
        let result = run(pipeline, &mut tail);
        let ChannelTail::Reading(Reading { replies, fatal, .. }) = tail else { return result };
        let mut aside = ChannelTail::aside(&mut self.inbox);
        // A peer that does not read what it is told is told no more.
        if pipeline.is_writable() || fatal.is_some() {
            for reply in replies {
                // Losing one costs the peer some work, nothing else.
                let _ = pipeline.write(reply, now, &mut aside);
            }
        }
        if let Some(cause) = fatal {
            pipeline.close(cause, now, &mut aside);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;
    use std::time::Instant;

    use super::*;
    use crate::connection::driver::{self, Batch, RequestHandler};
    use crate::connection::{Channel, ChannelSettings};
    use crate::observe::Observer;
    use crate::protocol::{HelloService, REPLY_METADATA};
    use crate::transport::raw::pair;

    /// Answers nothing.
    struct Silent;

    impl RequestHandler for Silent {
        fn handle(&mut self, _: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
            batch.now
        }
        fn limits_reading(&self) -> bool {
            true
        }
    }

    /// How many services and features of its peer that end keeps.
    async fn kept(side: Side, feature: &str) -> usize {
        let observer = Observer::new(side, false);
        let settings = ChannelSettings { side, observer, ..ChannelSettings::default() };
        let (transport, raw) = pair().await;
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        let hello = Hello {
            services: vec![HelloService::default(); 100],
            features: vec![feature.to_owned(); 100],
            ..Hello::default()
        };
        raw.send_frame(Header::new(Kind::Hello), &hello.encode().unwrap());
        tokio::spawn(driver::run(Arc::clone(&channel), reader, Silent));
        channel.greeted().await.unwrap();
        let hello = channel.peer_hello().unwrap();
        channel.close(RpcError::unavailable("the test is over"));
        hello.services.len() + hello.features.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_does_not_keep_what_its_clients_say_that_they_provide() {
        assert_eq!(kept(Side::Client, "feature").await, 200);
        assert_eq!(kept(Side::Server, "feature").await, 0);
        assert_eq!(kept(Side::Server, REPLY_METADATA).await, 1, "it is of use, once");
    }
}
