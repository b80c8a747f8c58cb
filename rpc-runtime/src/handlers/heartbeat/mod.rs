//! [`HeartbeatHandler`].

mod settings;
mod stats;

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) use settings::SHORTEST_GRANTED;
pub use settings::{Heartbeat, HeartbeatMode};
pub use stats::{HeartbeatState, HeartbeatStats};

use super::idle::{IdleEvent, IdleHandler, IdleKind};
use crate::error::RpcError;
use crate::observe::{Observer, Side};
use crate::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::{Frame, Header, Hello, Kind};

/// Neither pings nor pongs are written while so many bytes of them wait to be.
const MAX_PENDING: usize = 1 << 10;
/// Unanswered pings whose time is remembered.
const MAX_REMEMBERED: usize = 16;

/// Asks the peer whether it is there, answers when asked, and closes a connection whose peer is
/// gone: see [`Heartbeat`].
///
/// It learns of silence from the [`IdleHandler`] before it, which is called
/// [`IDLE`](Self::IDLE), and replaces that by another one when the peer's hello asks for a shorter
/// interval. Pings are answered before any request of their batch is dispatched, so that busy
/// workers can't starve them.
#[derive(Debug)]
pub struct HeartbeatHandler {
    side: Side,
    observer: Observer,
    /// What holds: this end's own settings, until the peer has told its interval.
    heartbeat: Heartbeat,
    greeted: bool,
    /// The idle handler is being replaced.
    replacing: bool,
    silence: Option<Silence>,
    /// When bytes last left.
    wrote: Option<Instant>,
    /// When the last pings were sent that no answer has come to; the newest last.
    pings: VecDeque<Instant>,
    stats: HeartbeatStats,
}

/// The peer has given no sign of life for a while.
#[derive(Debug)]
struct Silence {
    since: Instant,
    /// When it is too long; `None`: too far away to be told.
    until: Option<Instant>,
}

impl HeartbeatHandler {
    /// The name of the idle handler that belongs before this one.
    pub const IDLE: &'static str = "idle";

    /// The handler of the end that connected.
    pub fn client(heartbeat: Heartbeat) -> Self {
        Self::new(heartbeat, Side::Client, Observer::new(Side::Client, false))
    }

    /// The handler of the end that accepted.
    pub fn server(heartbeat: Heartbeat) -> Self {
        Self::new(heartbeat, Side::Server, Observer::new(Side::Server, false))
    }

    pub(crate) fn new(heartbeat: Heartbeat, side: Side, observer: Observer) -> Self {
        Self {
            side,
            observer,
            heartbeat,
            greeted: false,
            replacing: false,
            silence: None,
            wrote: None,
            pings: VecDeque::new(),
            stats: HeartbeatStats::default(),
        }
    }

    /// What the heartbeats show, to be kept where it is of interest.
    pub fn stats(&self) -> HeartbeatStats {
        self.stats.clone()
    }

    /// The idle handler that belongs before this one; none if this end asks nothing.
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

    /// The peer's first hello: from now on the shorter interval holds.
    #[cold]
    fn greeted(&mut self, ctx: &mut ChannelContext<'_>, hello: &[u8]) {
        if self.greeted {
            return;
        }
        // What to do about a damaged one is decided elsewhere.
        let Ok(hello) = Hello::decode(hello) else { return };
        self.greeted = true;
        let agreed = self.heartbeat.agreed(self.side, hello.heartbeat_ms);
        if agreed == self.heartbeat || self.heartbeat.mode == HeartbeatMode::Off {
            return;
        }
        self.heartbeat = agreed;
        if let Some(idle) = self.idle_handler() {
            self.replacing = true;
            ctx.change(Change::replace(Self::IDLE, Self::IDLE, idle));
        }
    }

    /// This end waits for the client to ask.
    fn is_asked(&self) -> bool {
        (self.heartbeat.mode, self.side) == (HeartbeatMode::Client, Side::Server)
    }

    /// Nothing has happened for so long that is a sign of life.
    fn silent(&mut self, now: Instant, idle: Duration) {
        let wrote = self.wrote.filter(|_| self.is_asked());
        let heartbeat = &self.heartbeat;
        self.silence.get_or_insert_with(|| {
            let since = now.checked_sub(idle).unwrap_or(now);
            // Of a large frame that leaves slowly, the idle handler counts the whole only.
            let since = wrote.map_or(since, |wrote| since.max(wrote));
            // An end that was held up asks late. The answer has an interval all the same.
            let until = since.checked_add(heartbeat.too_long());
            let until = until.zip(now.checked_add(heartbeat.interval));
            Silence { since, until: until.map(|(until, answer)| until.max(answer)) }
        });
    }

    fn ping(&mut self, ctx: &mut ChannelContext<'_>) {
        let now = ctx.now();
        let too_late = self.poll_timeout().is_some_and(|until| until <= now);
        // Reader and writer may be found idle at once.
        let just_asked = self.pings.back() == Some(&now);
        // A peer that talks but does not read must not fill the memory with pings.
        if too_late || just_asked || ctx.heartbeat_bytes() >= MAX_PENDING {
            return;
        }
        if self.pings.len() == MAX_REMEMBERED {
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

    /// The last ping has had its time.
    fn count_missed(&self) {
        if self.stats.state().unanswered > 0 {
            self.observer.heartbeat_missed();
        }
    }

    /// A ping's id is its number. Answers to pings that were never sent, or have been answered, say
    /// nothing.
    fn pong(&mut self, now: Instant, id: u64) {
        let HeartbeatState { sent, unanswered, .. } = self.stats.state();
        let Some(later) = sent.checked_sub(id).filter(|later| *later < unanswered) else { return };
        let later_known = usize::try_from(later).unwrap_or(usize::MAX);
        let at = self.pings.len().checked_sub(1).and_then(|last| last.checked_sub(later_known));
        let asked = at.and_then(|at| self.pings.get(at));
        let rtt = asked.map(|asked| now.saturating_duration_since(*asked));
        self.stats.update(|state| {
            state.unanswered = later;
            rtt.into_iter().for_each(|rtt| state.answered(rtt));
        });
        rtt.into_iter().for_each(|rtt| self.observer.heartbeat_answered(rtt));
        // Answers come in the order of the pings: earlier ones get none any more.
        self.pings.drain(..at.map_or(0, |at| at + 1));
    }

    /// Why the connection is closed.
    fn gone(&self, silent: Duration) -> RpcError {
        let what = if self.is_asked() { "read or written" } else { "read" };
        let silent = Duration::from_millis(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
        RpcError::unavailable(format!(
            "the peer gives no sign of life: nothing was {what} for {silent:?}, pings unanswered: {}",
            self.stats.state().unanswered
        ))
    }
}

impl ChannelHandler for HeartbeatHandler {
    #[inline]
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        match frame.header.kind {
            // A peer that does not read its pongs must not fill the memory with them.
            Kind::Ping if ctx.heartbeat_bytes() >= MAX_PENDING => Ok(Flow::Stop),
            Kind::Ping => {
                ctx.write(Frame::bare(Header { id: frame.header.id, ..Header::new(Kind::Pong) }));
                Ok(Flow::Stop)
            }
            Kind::Pong => {
                self.pong(ctx.now(), frame.header.id);
                Ok(Flow::Stop)
            }
            Kind::Hello => {
                self.greeted(ctx, frame.body.as_slice());
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
                self.silent(ctx.now(), event.idle);
            }
            (HeartbeatMode::Client, Side::Client, IdleKind::Reader)
            | (HeartbeatMode::Bidirectional, _, IdleKind::Reader) => {
                self.silent(ctx.now(), event.idle);
                self.ping(ctx);
            }
            (HeartbeatMode::Bidirectional, _, IdleKind::Writer) => self.ping(ctx),
            _ => {}
        }
        Ok(Flow::Next)
    }

    fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        if bytes > 0 {
            self.wrote = Some(ctx.now());
            if self.is_asked() {
                self.silence = None;
            }
        }
        Ok(Flow::Next)
    }

    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
        // Who has taken the idle handler out of the pipeline wants no silence to be noticed.
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
            ctx.close(self.gone(silent));
        }
        Ok(Flow::Next)
    }
}
