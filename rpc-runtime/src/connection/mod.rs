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

mod answer;
mod buffer_pool;
mod busy;
mod call;
mod close;
pub(crate) mod driver;
mod flush;
mod handle;
pub(crate) mod in_flight;
mod memory;
mod pace;
mod pump;
mod read_buffer;
mod state;
mod streams;
mod timers;
mod watchdog;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

pub(crate) use busy::count_cores;
pub(crate) use call::{Call as Exchange, CallError, Reply, Request};
pub(crate) use close::refuse;
pub use handle::ChannelHandle;
pub(crate) use memory::LargestAnswer;
pub(crate) use pump::pump;
pub(crate) use state::tail::read_error;
pub(crate) use state::work::WorkId;
pub(crate) use streams::{IncomingStream, OutgoingStream};

use self::flush::{FlushDuty, Rest};
use self::state::tail::ChannelTail;
use self::state::waiters::Waiters;
use self::state::work::Work;
use self::state::{Core, State};
use self::streams::Streams;
use crate::budget::{Account, Budget, MemoryLimits};
use crate::certificate::PeerCertificate;
use crate::connection::in_flight::InFlight;
use crate::error::RpcError;
use crate::handlers::{Heartbeat, HeartbeatHandler, HeartbeatStats, RefuseUnknown};
use crate::observe::{ConnectionMetrics, Observer, Side};
use crate::pipeline::{Change, Pipeline, Watermarks};
use crate::protocol::{
    Agreement, DEFAULT_MAX_PAYLOAD, DecodeLimits, Frame, FrameCodec, Header, Hello, Kind, Output,
    error_frame,
};
use crate::transport::{Transport, Writer};

/// Settings of one connection. Both ends have the same kind; the default is a server's.
#[derive(Clone, Debug)]
pub(crate) struct ChannelSettings {
    /// Largest payload that is read or written, in bytes.
    pub(crate) max_payload: usize,
    /// The limits for decoding values of the peer.
    pub(crate) decode: DecodeLimits,
    pub(crate) watermarks: Watermarks,
    /// Calls that may be sent and unanswered; more wait for their turn.
    pub(crate) max_in_flight: usize,
    /// Requests that may be in work. Clients are told; from one with more, nothing is read.
    pub(crate) max_concurrent_requests: usize,
    /// Gathered frames that leave without waiting for more. `None`: as many as seem best.
    pub(crate) flush_after: Option<usize>,
    /// The time in which the peer must read the waiting output, or enough of it.
    pub(crate) slow_reader_timeout: Duration,
    /// The minimum rate at which the peer must send a frame that has begun and read waiting output,
    /// in bytes per second.
    pub(crate) min_rate: u32,
    /// Shared by all connections of a server or a client.
    pub(crate) budget: Arc<Budget>,
    /// How long the peer may take for its first frame. `None`: somebody else sees to that.
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) heartbeat: Heartbeat,
    /// Panic texts and causes of errors are sent to the peer.
    pub(crate) expose_internal_errors: bool,
    pub(crate) side: Side,
    pub(crate) observer: Observer,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            max_payload: DEFAULT_MAX_PAYLOAD,
            decode: DecodeLimits::new(),
            watermarks: Watermarks::default(),
            max_in_flight: 16_384,
            max_concurrent_requests: 1_024,
            flush_after: None,
            slow_reader_timeout: Duration::from_secs(30),
            min_rate: DEFAULT_MIN_RATE,
            budget: Budget::new(MemoryLimits::default(), Observer::new(Side::Client, false)),
            handshake_timeout: None,
            heartbeat: Heartbeat::default(),
            expose_internal_errors: false,
            side: Side::Server,
            observer: Observer::new(Side::Client, false),
        }
    }
}

/// Limit of the payload of frames that carry no user's data, whatever the limit of those is: a
/// hello of about a thousand services.
pub(crate) const MAX_CONTROL: usize = 64 << 10;
/// A fraction of the rate of the slowest usable links.
const DEFAULT_MIN_RATE: u32 = 4 << 10;
/// The window in which the rate of a frame being read is measured.
const FRAME_WINDOW: Duration = Duration::from_secs(15);
/// A shorter one would close connections that are merely busy.
pub(crate) const MIN_SLOW_READER_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a peer that has never greeted may be silent once it was told of the end.
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

/// On cache lines of its own. What all callers read, they would otherwise fetch again whenever one
/// of them has changed what is beside it. 128, since processors fetch lines in pairs.
#[repr(align(128))]
struct CachePadded<T>(T);

/// One connection.
pub(crate) struct Channel {
    core: CachePadded<Mutex<Core>>,
    writer: Box<dyn Writer>,
    peer: Arc<str>,
    certificate: Option<Arc<PeerCertificate>>,
    /// Shared by all connections of a server, or to an endpoint.
    settings: Arc<ChannelSettings>,
    account: Arc<Account>,
    largest_answer: LargestAnswer,
    agreement: OnceLock<Agreement>,
    heartbeat: HeartbeatStats,
    metrics: ConnectionMetrics,
}

#[inline]
fn wake_all(wakers: Vec<Waker>) {
    // Mostly there are none.
    if !wakers.is_empty() {
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Channel {
    /// A channel over an open connection. Its first frame, the hello, is written already; the
    /// driver that is to run it sends it.
    pub(crate) fn new(
        transport: Transport,
        settings: impl Into<Arc<ChannelSettings>>,
        hello: &Hello,
        initializer: Option<&Initializer>,
    ) -> Result<(Arc<Self>, Box<dyn crate::transport::Reader>), RpcError> {
        let now = clock();
        let settings = settings.into();
        let Transport { reader, writer, peer, certificate, .. } = transport;
        let account = settings.budget.open(&peer);
        let mut core = Core {
            account: Arc::clone(&account),
            observer: settings.observer,
            kept: 0,
            pipeline: Pipeline::new(
                FrameCodec::new(settings.max_payload).with_max_control(MAX_CONTROL),
                settings.watermarks,
            ),
            in_flight: InFlight::new(settings.max_in_flight),
            work: Work::default(),
            streams: Streams::new(settings.budget.stream_window() as usize),
            await_room: Waiters::default(),
            state: State::Open,
            gathered: 0,
            split: true,
            duty: false,
            duty_due: None,
            writing: false,
            rest: Rest::default(),
            spare: Output::default(),
            driver: None,
            paused: false,
            armed: None,
            inbox: Vec::new(),
            peer_hello: None,
            await_hello: None,
            await_end: None,
            peer_error: None,
            leaving: None,
            explained: false,
        };
        let handler = HeartbeatHandler::new(settings.heartbeat, settings.side, settings.observer);
        let heartbeat = handler.stats();
        let mut changes = Vec::new();
        changes.extend(handler.idle_handler().map(|idle| Change::add_last("idle", idle)));
        changes.push(Change::add_last("heartbeat", handler));
        changes.push(Change::add_last("refuse-unknown", RefuseUnknown));
        changes.extend(initializer.map(|handlers| handlers()).unwrap_or_default());
        let Core { pipeline, inbox, .. } = &mut core;
        let mut tail = ChannelTail::aside(inbox);
        for change in changes {
            pipeline.change(change, now, &mut tail)?;
        }
        pipeline.channel_active(now, &mut tail);
        let body = hello.encode()?;
        pipeline.write(Frame::new(Header::new(Kind::Hello), &body), now, &mut tail)?;
        let (core, agreement) = (CachePadded(Mutex::new(core)), OnceLock::new());
        let metrics = ConnectionMetrics::opened(settings.observer);
        let peer = peer.into();
        let channel = Arc::new(Self {
            core,
            writer,
            peer,
            certificate,
            settings,
            account,
            largest_answer: LargestAnswer::default(),
            agreement,
            heartbeat,
            metrics,
        });
        let holder: Weak<Self> = Arc::downgrade(&channel);
        channel.account.belongs_to(holder);
        Ok((channel, reader))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // Handlers' panics are caught by the pipeline, so what is behind the lock is whole.
        self.core.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> &ChannelSettings {
        &self.settings
    }

    /// The other end.
    pub(crate) fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// What the other end has proved to be.
    pub(crate) fn peer_certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.certificate.as_ref()
    }

    /// What the peer said of itself, once it has.
    pub(crate) fn peer_hello(&self) -> Option<Arc<Hello>> {
        self.lock().peer_hello.clone()
    }

    /// What the two ends have in common. Once the peer has sent its hello.
    #[inline]
    pub(crate) fn agreement(&self) -> &Agreement {
        let agreement = || Agreement::new(&self.peer_hello().unwrap_or_default());
        self.agreement.get_or_init(agreement)
    }

    /// Waits until the peer has sent its hello. One task at a time may wait. Cancel safe.
    ///
    /// # Errors
    /// The connection ended first.
    pub(crate) async fn greeted(&self) -> Result<(), RpcError> {
        poll_fn(|cx| {
            let mut core = self.lock();
            if core.peer_hello.is_some() {
                return Poll::Ready(Ok(()));
            }
            if let State::Closed(cause) = &core.state {
                let why = format!("no hello came: {}", cause.message());
                return Poll::Ready(Err(RpcError::new(cause.status(), why).with_source(cause)));
            }
            core.await_hello = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Why no new calls may be sent here; `None` while they may.
    pub(crate) fn why_not_open(&self) -> Option<RpcError> {
        self.lock().why_not_open()
    }

    /// Wakes `waker`, outside of the lock, as soon as no new calls are taken here. One waker is
    /// kept. If it is so already, it is not woken, and this returns why.
    pub(crate) fn await_end(&self, waker: Waker) -> Option<RpcError> {
        let mut core = self.lock();
        let why = core.why_not_open();
        if why.is_none() {
            core.await_end = Some(waker);
        }
        why
    }

    /// Whether the peer has answered a call.
    pub(crate) fn has_answered(&self) -> bool {
        self.lock().in_flight.has_answered()
    }

    /// Whether the connection has ended: nothing is under way any more.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.lock().state, State::Closed(_))
    }

    /// Whether the bytes that wait to be written are under the high watermark.
    pub(crate) fn is_writable(&self) -> bool {
        self.lock().is_writable()
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
            drop(FlushDuty(self, now));
        }
        result
    }

    /// Tells the peer to send no new calls here. The peer ends the connection once nothing is under
    /// way; one that has not greeted by then is given up after [`LEAVING`] without a request.
    pub(crate) fn go_away(&self) {
        let now = clock();
        let duty = {
            let mut core = self.lock();
            if matches!(core.state, State::Closed(_)) || core.leaving.is_some() {
                return;
            }
            core.go_away(now)
        };
        if duty {
            drop(FlushDuty(self, now));
        }
    }

    /// No new calls are sent here; the connection ends once nothing is under way.
    pub(crate) fn retire(&self) {
        let mut wakers = Vec::new();
        self.lock().retire(&mut wakers);
        wake_all(wakers);
    }

    /// The same, and the peer is told.
    pub(crate) fn leave(&self) {
        let now = clock();
        let mut wakers = Vec::new();
        let duty = {
            let mut core = self.lock();
            // In one piece: the peer may close once it has answered what came before the goaway.
            core.retire(&mut wakers) && core.go_away(now)
        };
        wake_all(wakers);
        if duty {
            drop(FlushDuty(self, now));
        }
    }

    /// Tells the peer why, and closes once that has left.
    pub(crate) fn fail(&self, error: RpcError) {
        let kick = {
            let mut core = self.lock();
            let now = clock();
            // If it cannot be said, the connection ends all the same.
            let _ = core.write(error_frame(0, &error), now);
            core.explained = true;
            let Core { pipeline, inbox, .. } = &mut *core;
            pipeline.close(error, now, &mut ChannelTail::aside(inbox));
            core.driver.take()
        };
        kick.into_iter().for_each(Waker::wake);
    }

    /// Ends the connection now, and tells the peer why if that needs no waiting.
    pub(crate) fn cut_off(&self, cause: RpcError) {
        self.send_now(error_frame(0, &cause));
        self.close(cause);
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
            core.await_room.all(&mut wakers);
            wakers.extend(core.await_hello.take());
            wakers.extend(core.await_end.take());
            let Core { pipeline, inbox, .. } = &mut *core;
            pipeline.channel_inactive(&cause, clock(), &mut ChannelTail::aside(inbox));
            core.state = State::Closed(cause);
            wakers.extend(core.driver.take());
            core.drop_output();
            core.kept = 0;
            let aborted = core.work.end();
            core.settle(&mut wakers);
            aborted
        };
        tracing::debug!(peer = %self.peer, "connection closed");
        self.metrics.closed(self.settings.observer);
        wake_all(wakers);
        work.into_iter().for_each(|task| task.abort());
        self.writer.shutdown();
    }

    /// Appends a frame. The caller has the duty to flush it if this says so.
    fn append(&self, frame: Frame<'_>, now: Instant) -> Result<bool, RpcError> {
        let mut core = self.lock();
        if let State::Closed(cause) = &core.state {
            return Err(cause.clone());
        }
        let fits = core.fits(frame.body.len());
        let written = fits.and_then(|()| core.write(frame, now));
        // What made it fail may concern the whole connection.
        let kick = if written.is_err() { core.driver_if_needed() } else { None };
        let duty = written.is_ok() && core.claim_duty();
        drop(core);
        kick.into_iter().for_each(Waker::wake);
        written.map(|()| duty)
    }

    /// Sends a frame whose loss nobody waits for.
    fn send_now(&self, frame: Frame<'_>) {
        let now = clock();
        if let Ok(true) = self.append(frame, now) {
            drop(FlushDuty(self, now));
        }
    }
}

fn connection_lost(error: &std::io::Error) -> RpcError {
    RpcError::unavailable(format!("the connection was lost: {error}")).with_source(error)
}
