//! [`IdleHandler`]: events for connections without reads or writes.

use std::time::{Duration, Instant};

use crate::error::RpcError;
use crate::pipeline::{ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::Frame;

/// The kind of inactivity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdleKind {
    /// Nothing was read.
    Reader,
    /// Nothing was written.
    Writer,
    /// Nothing was read or written.
    All,
}

/// The event of an [`IdleHandler`] for the handlers behind it, which receive it in
/// [`ChannelHandler::user_event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdleEvent {
    /// The kind of inactivity.
    pub kind: IdleKind,
    /// Whether this is the first event since the last activity of that kind. `false` for repeated
    /// events.
    pub first: bool,
    /// The duration of the inactivity; at least the timeout.
    pub idle: Duration,
}

/// Fires events while nothing is read or written, like Netty's `IdleStateHandler`.
///
/// It sends an [`IdleEvent`] to the handlers behind it after each timeout without activity. It does
/// nothing else; in particular, it does not close the connection.
///
/// - A batch of bytes counts as a read, even without a complete frame in it. While a batch is being
///   read, neither `Reader` nor `All` is idle.
/// - A write counts when all of its bytes have been sent. A part of them counts only with
///   [`observe_output`](Self::observe_output).
/// - A timer that finds activity is set to the timeout after that activity. A timer that fires is
///   set to the full timeout.
///
/// The rules are those of Netty 4.2, with one exception: progress of the output that the writer
/// timer has seen still counts for the all timer.
#[derive(Debug)]
#[must_use]
pub struct IdleHandler {
    reader: Timer,
    writer: Timer,
    all: Timer,
    observe_output: bool,
    /// A batch is being read.
    reading: bool,
    clocks: Option<Clocks>,
    output: Output,
}

/// The times of the last activity.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    read: Instant,
    written: Instant,
}

/// Progress of the output.
#[derive(Debug, Default)]
struct Output {
    /// Wrapping count of bytes that the operating system accepted. Only compared for equality.
    taken: u32,
    /// Bytes still to be accepted until the current write is complete.
    left: usize,
}

impl Output {
    /// Records that `bytes` were accepted and `pending` wait. Returns whether that completes a
    /// write.
    fn taken(&mut self, bytes: usize, pending: usize) -> bool {
        self.taken = self.taken.wrapping_add(bytes as u32);
        if let Some(left @ 1..) = self.left.checked_sub(bytes) {
            self.left = left;
            return false;
        }
        // The waiting bytes end with a frame. The ends of the frames before it are not known here.
        let complete = self.left > 0 || pending == 0;
        self.left = pending;
        complete
    }
}

#[derive(Debug, Default)]
struct Timer {
    timeout: Option<Duration>,
    due: Option<Instant>,
    /// Whether it has not fired since the last activity.
    first: bool,
    /// The last value of [`Output::taken`] that it has seen.
    taken: u32,
}

impl Timer {
    fn set(&mut self, timeout: impl Into<Option<Duration>>) {
        self.timeout = timeout.into().filter(|timeout| !timeout.is_zero());
    }

    fn start(&mut self, now: Instant) {
        // A time out of range is never due.
        self.due = self.timeout.and_then(|timeout| now.checked_add(timeout));
        self.first = true;
    }

    /// Sets the timer again if it is due. If it fires, returns the duration since `last`, and
    /// whether it is the first time.
    fn fire(&mut self, now: Instant, last: Instant) -> Option<(Duration, bool)> {
        let timeout = self.timeout?;
        self.due.filter(|due| *due <= now)?;
        let idle = now.saturating_duration_since(last);
        if idle < timeout {
            self.due = last.checked_add(timeout);
            return None;
        }
        self.due = now.checked_add(timeout);
        Some((idle, std::mem::take(&mut self.first)))
    }

    /// Whether bytes were accepted since the previous call.
    fn saw_progress(&mut self, taken: u32) -> bool {
        std::mem::replace(&mut self.taken, taken) != taken
    }
}

impl Default for IdleHandler {
    fn default() -> Self {
        Self::new()
    }
}

impl IdleHandler {
    /// A handler with all three timers off.
    pub fn new() -> Self {
        Self {
            reader: Timer::default(),
            writer: Timer::default(),
            all: Timer::default(),
            observe_output: false,
            reading: false,
            clocks: None,
            output: Output::default(),
        }
    }

    /// Sets the time without a read until [`IdleKind::Reader`]. Zero or `None`, the default: off.
    pub fn reader(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.reader.set(timeout);
        self
    }

    /// Sets the time without a write until [`IdleKind::Writer`]. Zero or `None`, the default: off.
    pub fn writer(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.writer.set(timeout);
        self
    }

    /// Sets the time without a read or write until [`IdleKind::All`]. Zero or `None`, the default:
    /// off.
    pub fn all(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.all.set(timeout);
        self
    }

    /// Sets whether slow progress of the output counts as activity for repeated `Writer` and `All`
    /// events: these are then not sent. Default `false`.
    pub fn observe_output(mut self, observe: bool) -> Self {
        self.observe_output = observe;
        self
    }

    fn start(&mut self, now: Instant) {
        self.clocks = Some(Clocks { read: now, written: now });
        for timer in [&mut self.reader, &mut self.writer, &mut self.all] {
            timer.start(now);
        }
    }

    fn stop(&mut self) {
        for timer in [&mut self.reader, &mut self.writer, &mut self.all] {
            timer.due = None;
        }
    }
}

impl ChannelHandler for IdleHandler {
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
        self.start(ctx.now());
    }

    fn channel_active(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.start(ctx.now());
        Ok(Flow::Next)
    }

    fn channel_inactive(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Handled {
        self.stop();
        Ok(Flow::Next)
    }

    #[inline]
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        self.reading = true;
        Ok(Flow::Next)
    }

    fn channel_read_complete(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.reading = false;
        if let Some(clocks) = &mut self.clocks {
            clocks.read = clocks.read.max(ctx.now());
        }
        self.reader.first = true;
        self.all.first = true;
        Ok(Flow::Next)
    }

    fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        // The operating system may have accepted nothing.
        if bytes > 0 && self.output.taken(bytes, ctx.pending_bytes()) {
            if let Some(clocks) = &mut self.clocks {
                clocks.written = clocks.written.max(ctx.now());
            }
            self.writer.first = true;
            self.all.first = true;
        }
        Ok(Flow::Next)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.reader.due, self.writer.due, self.all.due].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        let now = ctx.now();
        let Some(Clocks { read, written }) = self.clocks else { return Ok(Flow::Next) };
        let read = if self.reading { now } else { read };
        let timers = [
            (IdleKind::Reader, &mut self.reader, read),
            (IdleKind::Writer, &mut self.writer, written),
            (IdleKind::All, &mut self.all, read.max(written)),
        ];
        for (kind, timer, last) in timers {
            let Some((idle, first)) = timer.fire(now, last) else { continue };
            let progress = kind != IdleKind::Reader && timer.saw_progress(self.output.taken);
            if first || !progress || !self.observe_output {
                ctx.fire_user_event(IdleEvent { kind, first, idle });
            }
        }
        Ok(Flow::Next)
    }
}
