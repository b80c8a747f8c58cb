//! [`Channel`]: one connection, its pipeline, and the calls on it.
//!
//! Whoever holds the channel's lock runs its pipeline: Netty's rule that a channel belongs to one
//! event loop, without the hop. The lock is short, is never held across a system call, and no
//! user code runs under it but the pipeline's handlers.
//!
//! # How bytes leave
//!
//! Frames gather in the pipeline's output. Three facts say who writes them, and this must always
//! hold: **while the output is not empty, `duty` is set (somebody has promised to flush), or
//! `writing` is (the writer looks again before it stops).** When the operating system takes no
//! more, the remainder goes to the driver (`rest`) and `writing` stays set until it is written.
//!
//! A promise is a [`FlushDuty`]: dropping it flushes, so a caller that is cancelled between its
//! promise and its flush still keeps it. A caller that is neither polled nor dropped would hold up
//! everybody's frames, so the driver looks after it: see [`DUTY_GRACE`].

mod call;
pub(crate) mod driver;
mod handle;
mod pump;
mod streams;
mod tail;
mod work;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

pub(crate) use call::{CallError, Reply, Request};
pub use handle::ChannelHandle;
pub(crate) use pump::{Source, pump};
pub(crate) use streams::{IncomingStream, OutgoingStream};
pub(crate) use tail::read_error;
pub(crate) use work::Ticket;

use self::streams::Streams;
use self::tail::ChannelTail;
use self::work::Work;
use crate::error::RpcError;
use crate::handlers::{AnswerPings, RefuseUnknown};
use crate::in_flight::InFlight;
use crate::pipeline::{Change, Pipeline, Watermarks};
use crate::protocol::{Body, DEFAULT_MAX_PAYLOAD, Flags, Frame, FrameCodec, Header, Hello, Kind};
use crate::transport::{Transport, Writer};

/// Limits of one connection. Both ends have the same kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelLimits {
    /// Largest payload that is read or written, in bytes.
    pub(crate) max_payload: usize,
    pub(crate) watermarks: Watermarks,
    /// Calls that may be sent and unanswered; more wait for their turn.
    pub(crate) max_in_flight: usize,
    /// Requests that may be in work; at the limit no more are read.
    pub(crate) max_in_work: usize,
}

impl Default for ChannelLimits {
    fn default() -> Self {
        Self {
            max_payload: DEFAULT_MAX_PAYLOAD,
            watermarks: Watermarks::default(),
            max_in_flight: 16_384,
            max_in_work: 1_024,
        }
    }
}

/// Limit of the payload of frames that carry no user's data, whatever the limit of those is: a
/// hello of some ten thousand services.
const MAX_CONTROL: usize = 1 << 20;
/// How long requests may still be on their way that the peer sent before it heard of the end.
const LEAVING: Duration = Duration::from_secs(1);

/// How long a caller may take to keep its promise to flush. Its task was woken for it at once, but
/// a user's code may hold a future without polling it.
const DUTY_GRACE: Duration = Duration::from_millis(20);

/// Adds a user's handlers to the pipeline of a new connection.
pub(crate) type Initializer = Arc<dyn Fn() -> Vec<Change> + Send + Sync>;

/// The time, as the runtime has it: virtual while a test has paused it.
pub(crate) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The peer is about to close: what is in flight goes on, nothing new is sent.
    Draining,
    Closed(RpcError),
}

/// One connection.
pub(crate) struct Channel {
    core: Mutex<Core>,
    writer: Box<dyn Writer>,
    peer: Arc<str>,
    limits: ChannelLimits,
}

struct Core {
    pipeline: Pipeline,
    in_flight: InFlight,
    work: Work,
    streams: Streams,
    /// Streams that wait until the channel is writable again.
    await_room: Vec<Waker>,
    state: State,
    /// Somebody has promised to flush.
    duty: bool,
    /// When the driver sees whether a caller has kept its promise.
    duty_due: Option<Instant>,
    /// Somebody writes, and looks again before it stops.
    writing: bool,
    /// What the operating system did not take; for the driver to write.
    rest: Vec<u8>,
    /// An empty buffer, kept for its allocation.
    spare: Vec<u8>,
    driver: Option<Waker>,
    /// When the driver wakes by itself.
    armed: Option<Instant>,
    /// Frames that handlers sent to the tail while nothing was being read.
    inbox: Vec<Frame<'static>>,
    peer_hello: Option<Hello>,
    /// Why the peer is about to close, if it said so.
    peer_error: Option<RpcError>,
    watermarks: Watermarks,
    /// Set once this end has said that it is about to close: when it may, if nothing is under way.
    leaving: Option<Instant>,
}

/// The promise to flush a channel; kept when it is dropped.
pub(crate) struct FlushDuty<'c>(&'c Channel);

impl Drop for FlushDuty<'_> {
    fn drop(&mut self) {
        self.0.flush();
    }
}

impl Core {
    /// Writes a frame, starting at the pipeline's tail.
    fn write(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), RpcError> {
        let Self { pipeline, inbox, .. } = self;
        pipeline.write(frame, now, &mut ChannelTail::aside(inbox))
    }

    /// Takes on the duty to flush, unless somebody has it.
    fn claim_duty(&mut self) -> bool {
        !std::mem::replace(&mut self.duty, true)
    }

    fn is_writable(&self) -> bool {
        self.pipeline.is_writable()
    }

    /// `bytes` bytes have left; calls that waited for room may go on.
    fn written(&mut self, bytes: usize, now: Instant, wakers: &mut Vec<Waker>) {
        let Self { pipeline, inbox, .. } = self;
        let was_writable = pipeline.is_writable();
        pipeline.written(bytes, now, &mut ChannelTail::aside(inbox));
        if !was_writable && pipeline.is_writable() {
            // It may have stopped reading.
            wakers.extend(self.driver.take());
            wakers.append(&mut self.await_room);
        }
        self.admit(wakers);
    }

    /// Wakes `waker` when the channel is writable again, or closed.
    fn await_room(&mut self, waker: &Waker) {
        if !self.await_room.iter().any(|known| known.will_wake(waker)) {
            self.await_room.push(waker.clone());
        }
    }

    fn admit(&mut self, wakers: &mut Vec<Waker>) {
        if self.is_writable() && self.state == State::Open {
            self.in_flight.admit(self.pipeline.pending_bytes(), self.watermarks.high, wakers);
        }
    }

    /// The driver, if there is something for it that it does not know of.
    fn driver_if_needed(&mut self) -> Option<Waker> {
        let earlier = |at: Option<Instant>| match (at, self.armed) {
            (Some(at), Some(armed)) => at < armed,
            (at, None) => at.is_some(),
            (None, _) => false,
        };
        let needed = earlier(self.in_flight.earliest())
            || earlier(self.duty_due)
            || !self.inbox.is_empty()
            || self.pipeline.closing().is_some()
            || self.is_ending();
        if needed { self.driver.take() } else { None }
    }

    /// One of the ends has said that it is about to close.
    fn is_ending(&self) -> bool {
        self.state == State::Draining || self.leaving.is_some()
    }

    /// Neither calls of ours nor requests of the peer are under way, and all is written.
    fn is_idle(&self) -> bool {
        self.work.is_empty()
            && self.in_flight.is_idle()
            && self.streams.is_empty()
            && self.is_flushed()
    }

    /// Nothing is left to be written, nor will be by somebody who promised.
    fn is_flushed(&self) -> bool {
        !self.pipeline.has_output() && !self.writing && !self.duty
    }
}

fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Channel {
    /// A channel over an open connection. Its first frame, the hello, is written already; the
    /// driver that is to run it sends it.
    pub(crate) fn new(
        transport: Transport,
        limits: ChannelLimits,
        hello: &Hello,
        initializer: Option<&Initializer>,
    ) -> Result<(Arc<Self>, Box<dyn crate::transport::Reader>), RpcError> {
        let now = clock();
        let Transport { reader, writer, peer } = transport;
        let mut core = Core {
            pipeline: Pipeline::new(
                FrameCodec::new(limits.max_payload).with_max_control(MAX_CONTROL),
                limits.watermarks,
            ),
            in_flight: InFlight::new(limits.max_in_flight),
            work: Work::default(),
            streams: Streams::default(),
            await_room: Vec::new(),
            state: State::Open,
            duty: false,
            duty_due: None,
            writing: false,
            rest: Vec::new(),
            spare: Vec::new(),
            driver: None,
            armed: None,
            inbox: Vec::new(),
            peer_hello: None,
            peer_error: None,
            watermarks: limits.watermarks,
            leaving: None,
        };
        let mut changes = vec![
            Change::add_last("refuse-unknown", RefuseUnknown),
            Change::add_last("answer-pings", AnswerPings),
        ];
        changes.extend(initializer.map(|handlers| handlers()).unwrap_or_default());
        let Core { pipeline, inbox, .. } = &mut core;
        let mut tail = ChannelTail::aside(inbox);
        for change in changes {
            pipeline.change(change, now, &mut tail)?;
        }
        pipeline.channel_active(now, &mut tail);
        let body = hello.encode()?;
        pipeline.write(Frame::new(Header::new(Kind::Hello), &body), now, &mut tail)?;
        Ok((Arc::new(Self { core: Mutex::new(core), writer, peer: peer.into(), limits }), reader))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A handler's panic under the lock ends the driver, and with it the channel.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other end.
    pub(crate) fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// What the peer said of itself, once it has.
    pub(crate) fn peer_hello(&self) -> Option<Hello> {
        self.lock().peer_hello.clone()
    }

    /// See [`ChannelHandle::change`].
    fn change_pipeline(&self, change: Change) -> Result<(), RpcError> {
        let now = clock();
        let (result, kick, duty) = {
            let mut core = self.lock();
            let Core { pipeline, inbox, .. } = &mut *core;
            let result = pipeline.change(change, now, &mut ChannelTail::aside(inbox));
            let duty = core.pipeline.has_output() && core.claim_duty();
            (result, core.driver_if_needed(), duty)
        };
        kick.into_iter().for_each(Waker::wake);
        if duty {
            drop(FlushDuty(self));
        }
        result
    }

    /// Tells the peer to send no new calls here. The connection ends once nothing is under way: the
    /// peer closes it, or this end after [`LEAVING`] without a request.
    pub(crate) fn go_away(&self) {
        let now = clock();
        let duty = {
            let mut core = self.lock();
            if matches!(core.state, State::Closed(_)) || core.leaving.is_some() {
                return;
            }
            core.leaving = now.checked_add(LEAVING);
            // A full buffer is no reason to keep it back, and nothing else can fail here.
            let _ = core.write(Frame::of_kind(Kind::GoAway), now);
            core.claim_duty()
        };
        if duty {
            drop(FlushDuty(self));
        }
    }

    /// No new calls are sent here; the connection ends once nothing is under way.
    pub(crate) fn retire(&self) {
        let mut wakers = Vec::new();
        {
            let mut core = self.lock();
            if core.state != State::Open {
                return;
            }
            core.state = State::Draining;
            let unused = RpcError::unavailable("the connection is no longer used");
            core.in_flight.fail_queued(&unused, &mut wakers);
            wakers.extend(core.driver.take());
        }
        wake_all(wakers);
    }

    /// Ends the connection now. Whatever waits on it fails with `cause`.
    pub(crate) fn close(&self, cause: RpcError) {
        let mut wakers = Vec::new();
        let work = {
            let mut core = self.lock();
            if matches!(core.state, State::Closed(_)) {
                return;
            }
            core.in_flight.fail_all(&cause, &mut wakers);
            core.streams.fail_all(&cause, &mut wakers);
            wakers.append(&mut core.await_room);
            let Core { pipeline, inbox, .. } = &mut *core;
            pipeline.channel_inactive(&cause, clock(), &mut ChannelTail::aside(inbox));
            core.state = State::Closed(cause);
            wakers.extend(core.driver.take());
            std::mem::take(&mut core.work)
        };
        tracing::debug!(peer = %self.peer, "connection closed");
        wake_all(wakers);
        work.abort_all();
        self.writer.shutdown();
    }

    /// Writes all that has gathered. Never waits; what does not fit is left to the driver.
    pub(crate) fn flush(&self) {
        let mut buffer = {
            let mut core = self.lock();
            core.duty = false;
            if core.writing || !core.pipeline.has_output() {
                // The driver may be waiting for the last promise to be kept before it closes.
                let kick = core.driver_if_needed();
                drop(core);
                kick.into_iter().for_each(Waker::wake);
                return;
            }
            core.writing = true;
            let spare = std::mem::take(&mut core.spare);
            core.pipeline.take_output(spare)
        };
        let mut wakers = Vec::new();
        loop {
            let (written, result) = self.write_some(&buffer);
            let mut core = self.lock();
            core.written(written, clock(), &mut wakers);
            match result {
                Ok(true) => {}
                Ok(false) => {
                    buffer.drain(..written);
                    core.rest = buffer;
                    wakers.extend(core.driver.take());
                    break;
                }
                Err(error) => {
                    drop(core);
                    self.close(connection_lost(&error));
                    break;
                }
            }
            buffer.clear();
            // With a promise outstanding, what has gathered since leaves when that is kept.
            if core.duty || !core.pipeline.has_output() {
                core.writing = false;
                if buffer.capacity() <= crate::buffer::MAX_KEPT {
                    core.spare = buffer;
                }
                wakers.extend(core.driver_if_needed());
                break;
            }
            buffer = core.pipeline.take_output(buffer);
        }
        wake_all(wakers);
    }

    /// Writes until all is written (`true`) or no more fits (`false`). Says how much was written.
    fn write_some(&self, bytes: &[u8]) -> (usize, std::io::Result<bool>) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            match self.writer.try_write(rest) {
                Ok(0) => return (at, Err(std::io::ErrorKind::WriteZero.into())),
                Ok(n) => at += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return (at, Ok(false));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return (at, Err(error)),
            }
        }
        (at, Ok(true))
    }

    /// Appends a frame. The caller has the duty to flush it if this says so; `later`
    /// if a user's code comes before that.
    fn append(&self, frame: Frame<'_>, later: bool) -> Result<bool, RpcError> {
        let mut core = self.lock();
        if let State::Closed(cause) = &core.state {
            return Err(cause.clone());
        }
        core.fits(frame.body.as_slice().len())?;
        let now = clock();
        core.write(frame, now)?;
        let duty = core.claim_duty();
        let mut kick = None;
        if duty && later {
            core.duty_due.get_or_insert(now + DUTY_GRACE);
            kick = core.driver_if_needed();
        }
        drop(core);
        kick.into_iter().for_each(Waker::wake);
        Ok(duty)
    }

    /// Sends a frame whose loss nobody waits for.
    fn send_now(&self, frame: Frame<'_>) {
        if let Ok(true) = self.append(frame, false) {
            drop(FlushDuty(self));
        }
    }

    /// Appends answers that are ready, all under one lock. They leave with the next flush, which is
    /// the caller's to see to.
    pub(crate) fn append_answers<'b>(&self, answers: impl Iterator<Item = (Header, &'b [u8])>) {
        let now = clock();
        let mut core = self.lock();
        for (header, body) in answers {
            core.answer(header, body, now);
        }
    }

    /// Sends the answer of a request that was in work, unless the caller has cancelled it. With the
    /// flag for a stream it stays in work.
    pub(crate) async fn answer(&self, ticket: Ticket, header: Header, body: &[u8]) {
        let (duty, others, kick) = {
            let mut core = self.lock();
            let (wanted, kick) = match header.flags.contains(Flags::STREAM) {
                true => (core.work.is_running(ticket), None),
                false => core.finish(ticket),
            };
            if wanted {
                core.answer(header, body, clock());
            }
            (wanted && core.claim_duty(), !core.work.is_empty(), kick)
        };
        kick.into_iter().for_each(Waker::wake);
        if duty {
            let duty = FlushDuty(self);
            if others {
                // Other answers are on their way: let them gather and leave in one write.
                yield_once().await;
            }
            drop(duty);
        }
    }

    /// A request goes on in a task of its own. `None` once the channel is closed: nobody would hear
    /// the answer. Requests that want none are never refused.
    pub(crate) fn start_work(&self, id: u64, oneway: bool) -> Option<Ticket> {
        let mut core = self.lock();
        if !oneway && matches!(core.state, State::Closed(_)) {
            return None;
        }
        Some(core.work.start(id, oneway))
    }

    /// `abort` ends the task of a request when the caller cancels it or the connection ends.
    pub(crate) fn set_abort(&self, ticket: Ticket, abort: tokio::task::AbortHandle) {
        let late = self.lock().work.set_abort(ticket, abort);
        late.into_iter().for_each(|abort| abort.abort());
    }

    /// More is in work than there should be. Reading goes on at the limit only while there are
    /// streams, whose items and credit come the same way.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.lock().work.len() >= self.limits.max_in_work
    }

    /// A request is no longer in work and gets no answer.
    pub(crate) fn finish_work(&self, ticket: Ticket) {
        let (_, kick) = self.lock().finish(ticket);
        kick.into_iter().for_each(Waker::wake);
    }
}

impl Core {
    /// Writes an answer; one that can't be written becomes an error answer that can.
    fn answer(&mut self, header: Header, body: &[u8], now: Instant) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        let Err(error) = self.write(Frame::new(header, body), now) else { return };
        let (header, body) = crate::protocol::error_answer(header.id, &error.maybe_executed());
        let frame = Frame { header, body: Body::Owned(body.into()) };
        if let Err(error) = self.write(frame, now) {
            tracing::warn!(%error, "an answer could not be written");
        }
    }

    /// Whether the answer is still wanted, and the driver if it waited for room.
    fn finish(&mut self, ticket: Ticket) -> (bool, Option<Waker>) {
        let was_full = self.work.len() >= self.work.resume_below();
        let wanted = self.work.finish(ticket);
        let resumes = was_full && self.work.len() < self.work.resume_below();
        let kick = if resumes || self.work.is_empty() { self.driver.take() } else { None };
        (wanted, kick)
    }
}

fn connection_lost(error: &std::io::Error) -> RpcError {
    RpcError::unavailable(format!("the connection was lost: {error}")).with_source(error)
}

/// Lets the other tasks that are ready run first.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
