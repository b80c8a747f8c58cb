//! [`HeartbeatHandler`]: pings, pongs and the end of connections without a live peer.

mod settings;
mod stats;

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) use settings::MIN_REQUESTED_INTERVAL;
pub use settings::{Heartbeat, HeartbeatMode};
pub use stats::{HeartbeatState, HeartbeatStats};

use super::idle::{IdleEvent, IdleHandler, IdleKind};
use crate::error::RpcError;
use crate::observe::{Observer, Side};
use crate::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::{Frame, Header, Hello, Kind};

/// No pings or pongs are written while this many bytes of them wait to be sent.
const MAX_PENDING_BYTES: usize = 1 << 10;
/// Maximum unanswered pings whose time is kept.
const MAX_TRACKED_PINGS: usize = 16;

/// Sends pings, answers pings, and closes a connection whose peer is silent for too long; see
/// [`Heartbeat`].
///
/// It reacts to the events of the [`IdleHandler`] before it, which has the name
/// [`IDLE`](Self::IDLE). It replaces that handler when the peer's hello announces a shorter
/// interval. Pings are answered before any request of their batch is dispatched, so busy workers
/// cannot delay the answers.
#[derive(Debug)]
pub struct HeartbeatHandler {
    side: Side,
    observer: Observer,
    /// The settings in effect: this end's own until the peer has announced its interval.
    heartbeat: Heartbeat,
    hello_received: bool,
    /// The idle handler is being replaced.
    replacing: bool,
    silence: Option<SilencePeriod>,
    /// When bytes were last sent.
    last_written: Option<Instant>,
    /// When the unanswered pings were sent; the newest last.
    pings: VecDeque<Instant>,
    stats: HeartbeatStats,
}

/// A period without bytes from the peer.
#[derive(Debug)]
struct SilencePeriod {
    since: Instant,
    /// When the peer counts as dead; `None` if that is out of range.
    until: Option<Instant>,
}

impl HeartbeatHandler {
    /// The name of the idle handler that must be before this one.
    pub const IDLE: &'static str = "idle";

    /// The handler for the connecting end.
    pub fn client(heartbeat: Heartbeat) -> Self {
        Self::new(heartbeat, Side::Client, Observer::new(Side::Client, false))
    }

    /// The handler for the accepting end.
    pub fn server(heartbeat: Heartbeat) -> Self {
        Self::new(heartbeat, Side::Server, Observer::new(Side::Server, false))
    }

    pub(crate) fn new(heartbeat: Heartbeat, side: Side, observer: Observer) -> Self {
        Self {
            side,
            observer,
            heartbeat,
            hello_received: false,
            replacing: false,
            silence: None,
            last_written: None,
            pings: VecDeque::new(),
            stats: HeartbeatStats::default(),
        }
    }

    /// Shared access to the statistics.
    pub fn stats(&self) -> HeartbeatStats {
        self.stats.clone()
    }

    /// The idle handler that must be before this one; `None` if this end checks nothing.
    pub fn idle_handler(&self) -> Option<IdleHandler> {
        let interval = self.heartbeat.interval;
        let idle = IdleHandler::new().observe_output(true);
        match (self.heartbeat.mode, self.side) {
            (HeartbeatMode::Bidirectional, _) => Some(idle.reader(interval).writer(interval)),
            (HeartbeatMode::Client, Side::Client) => Some(idle.reader(interval)),
            (HeartbeatMode::Client, Side::Server) => Some(idle.all(interval)),
            (HeartbeatMode::Off, _) => None,
        }
    }

    /// Handles the first hello of the peer: the shorter interval takes effect.
    #[cold]
    fn hello_received(&mut self, ctx: &mut ChannelContext<'_>, hello: &[u8]) {
        if self.hello_received {
            return;
        }
        // The channel handles an invalid hello.
        let Ok(hello) = Hello::decode(hello) else { return };
        self.hello_received = true;
        let negotiated = self.heartbeat.negotiated(self.side, hello.heartbeat_ms);
        if negotiated == self.heartbeat || self.heartbeat.mode == HeartbeatMode::Off {
            return;
        }
        self.heartbeat = negotiated;
        if let Some(idle) = self.idle_handler() {
            self.replacing = true;
            ctx.change(Change::replace(Self::IDLE, Self::IDLE, idle));
        }
    }

    /// Whether this end waits for the client's pings.
    fn waits_for_pings(&self) -> bool {
        (self.heartbeat.mode, self.side) == (HeartbeatMode::Client, Side::Server)
    }

    /// The peer was silent for the duration `idle`.
    fn begin_silence(&mut self, now: Instant, idle: Duration) {
        let last_written = self.last_written.filter(|_| self.waits_for_pings());
        let heartbeat = &self.heartbeat;
        self.silence.get_or_insert_with(|| {
            let since = now.checked_sub(idle).unwrap_or(now);
            // For the idle handler, a large frame counts only when all of it was sent.
            let since = last_written.map_or(since, |last_written| since.max(last_written));
            // A delayed end sends its ping late. The peer still has one interval for the pong.
            let until = since.checked_add(heartbeat.effective_timeout());
            let until = until.zip(now.checked_add(heartbeat.interval));
            SilencePeriod { since, until: until.map(|(until, answer)| until.max(answer)) }
        });
    }

    fn ping(&mut self, ctx: &mut ChannelContext<'_>) {
        let now = ctx.now();
        let too_late = self.poll_timeout().is_some_and(|until| until <= now);
        // Reader and writer may become idle at the same time.
        let just_sent = self.pings.back() == Some(&now);
        // A peer that sends but does not read must not fill the memory with pings.
        if too_late || just_sent || ctx.heartbeat_bytes() >= MAX_PENDING_BYTES {
            return;
        }
        if self.pings.len() == MAX_TRACKED_PINGS {
            self.pings.pop_front();
        }
        self.count_missed();
        self.observer.heartbeat_sent();
        self.pings.push_back(now);
        self.stats.update(|state| {
            state.sent = state.sent.saturating_add(1);
            state.unanswered = state.unanswered.saturating_add(1);
        });
        let id = self.stats.state().sent;
        ctx.write(Frame::bare(Header { id, ..Header::new(Kind::Ping) }));
    }

    /// Counts the last ping as missed.
    fn count_missed(&self) {
        if self.stats.state().unanswered > 0 {
            self.observer.heartbeat_missed();
        }
    }

    /// Handles a pong. The id of a ping is its number. Pongs for pings that were never sent or are
    /// already answered are ignored.
    fn pong(&mut self, now: Instant, id: u64) {
        let HeartbeatState { sent, unanswered, .. } = self.stats.state();
        let Some(later) = sent.checked_sub(id).filter(|later| *later < unanswered) else { return };
        let later_known = usize::try_from(later).unwrap_or(usize::MAX);
        let at = self.pings.len().checked_sub(1).and_then(|last| last.checked_sub(later_known));
        let sent_at = at.and_then(|at| self.pings.get(at));
        let rtt = sent_at.map(|sent_at| now.saturating_duration_since(*sent_at));
        self.stats.update(|state| {
            state.unanswered = later;
            rtt.into_iter().for_each(|rtt| state.pong_received(rtt));
        });
        rtt.into_iter().for_each(|rtt| self.observer.heartbeat_answered(rtt));
        // Pongs arrive in the order of the pings, so earlier pings will get none.
        self.pings.drain(..at.map_or(0, |at| at + 1));
    }

    /// The error with which the connection is closed.
    fn timeout_error(&self, silent: Duration) -> RpcError {
        let what = if self.waits_for_pings() { "read or written" } else { "read" };
        let silent = Duration::from_millis(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
        RpcError::unavailable(format!(
            "the peer is silent: nothing was {what} for {silent:?}, unanswered pings: {}",
            self.stats.state().unanswered
        ))
    }
}

impl ChannelHandler for HeartbeatHandler {
    #[inline]
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        match frame.header.kind {
            // A peer that does not read must not fill the memory with pongs.
            Kind::Ping if ctx.heartbeat_bytes() >= MAX_PENDING_BYTES => Ok(Flow::Stop),
            Kind::Ping => {
                ctx.write(Frame::bare(Header { id: frame.header.id, ..Header::new(Kind::Pong) }));
                Ok(Flow::Stop)
            }
            Kind::Pong => {
                self.pong(ctx.now(), frame.header.id);
                Ok(Flow::Stop)
            }
            Kind::Hello => {
                self.hello_received(ctx, frame.body.as_slice());
                Ok(Flow::Next)
            }
            _ => Ok(Flow::Next),
        }
    }

    fn channel_read_complete(&mut self, _: &mut ChannelContext<'_>) -> Handled {
        self.silence = None;
        self.replacing = false;
        Ok(Flow::Next)
    }

    fn user_event(&mut self, ctx: &mut ChannelContext<'_>, event: &(dyn Any + Send)) -> Handled {
        let Some(event) = event.downcast_ref::<IdleEvent>() else { return Ok(Flow::Next) };
        match (self.heartbeat.mode, self.side, event.kind) {
            (HeartbeatMode::Client, Side::Server, IdleKind::All) => {
                self.begin_silence(ctx.now(), event.idle);
            }
            (HeartbeatMode::Client, Side::Client, IdleKind::Reader)
            | (HeartbeatMode::Bidirectional, _, IdleKind::Reader) => {
                self.begin_silence(ctx.now(), event.idle);
                self.ping(ctx);
            }
            (HeartbeatMode::Bidirectional, _, IdleKind::Writer) => self.ping(ctx),
            _ => {}
        }
        Ok(Flow::Next)
    }

    fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        if bytes > 0 {
            self.last_written = Some(ctx.now());
            if self.waits_for_pings() {
                self.silence = None;
            }
        }
        Ok(Flow::Next)
    }

    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
        // If the application has removed the idle handler, silence is not to be noticed.
        if std::mem::take(&mut self.replacing) && error.is_invalid() {
            return Flow::Stop;
        }
        Flow::Next
    }

    fn channel_inactive(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Handled {
        self.silence = None;
        Ok(Flow::Next)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.silence.as_ref().and_then(|silence| silence.until)
    }

    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        if let Some(silence) = self.silence.take() {
            let silent = ctx.now().saturating_duration_since(silence.since);
            self.count_missed();
            ctx.close(self.timeout_error(silent));
        }
        Ok(Flow::Next)
    }
}
