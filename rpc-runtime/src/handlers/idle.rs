//! [`IdleHandler`].

use std::time::{Duration, Instant};

use crate::error::RpcError;
use crate::pipeline::{ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::Frame;

/// What has not happened for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdleKind {
    /// Nothing was read.
    Reader,
    /// Nothing was written.
    Writer,
    /// Neither was anything read nor written.
    All,
}

/// The event of an [`IdleHandler`], for the handlers behind it: see
/// [`ChannelHandler::user_event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdleEvent {
    /// What has not happened.
    pub kind: IdleKind,
    /// The first event of its kind since it last happened; `false` for those that repeat it.
    pub first: bool,
    /// For how long it has not happened: the timeout at least.
    pub idle: Duration,
}

/// Says when nothing was read or written for a while, Netty's `IdleStateHandler`.
///
/// It only says so, with an [`IdleEvent`] for the handlers behind it, again and again in the same
/// distance while nothing happens. What follows from it is their business.
///
/// - The read clock moves when a batch of bytes has been read, also one without a whole frame in
///   it. While a batch is being read, neither reader nor all is idle.
/// - The write clock moves when what waited to be written has left. That a part of it has left
///   counts with [`observe_output`](Self::observe_output) only.
/// - A timer that finds activity is set to the timeout after that; one that fires, to the full
///   timeout.
///
/// The rules are those of Netty 4.2, but for one: what the writer timer has seen of the output's
/// progress is not hidden from the all timer.
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

/// When something last happened.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    read: Instant,
    written: Instant,
}

/// What is known of the bytes that leave.
#[derive(Debug, Default)]
struct Output {
    /// Bytes that were taken, wrapping: only whether it changes is of interest.
    taken: u32,
    /// Bytes to be taken until the write is complete that was seen to be under way.
    left: usize,
}

impl Output {
    /// `bytes` were taken and `pending` are waiting. Says whether that completes a write.
    fn taken(&mut self, bytes: usize, pending: usize) -> bool {
        self.taken = self.taken.wrapping_add(bytes as u32);
        if let Some(left @ 1..) = self.left.checked_sub(bytes) {
            self.left = left;
            return false;
        }
        // All that waits now ends with a frame; where others end within it is not known here.
        let complete = self.left > 0 || pending == 0;
        self.left = pending;
        complete
    }
}

#[derive(Debug, Default)]
struct Timer {
    timeout: Option<Duration>,
    due: Option<Instant>,
    /// It has not fired since the last activity.
    first: bool,
    /// What it last saw of [`Output::taken`].
    taken: u32,
}

impl Timer {
    fn set(&mut self, timeout: impl Into<Option<Duration>>) {
        self.timeout = timeout.into().filter(|timeout| !timeout.is_zero());
    }

    fn start(&mut self, now: Instant) {
        // One that is too far away to be told is never due.
        self.due = self.timeout.and_then(|timeout| now.checked_add(timeout));
        self.first = true;
    }

    /// Sets the timer anew if it is due. For how long nothing has happened since `last`, if it
    /// fires, and whether for the first time.
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

    /// Whether bytes were taken since this was last asked.
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
    /// A handler whose three timers are off.
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

    /// [`IdleKind::Reader`] after so long without a read. Zero or `None`, the default: never.
    pub fn reader(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.reader.set(timeout);
        self
    }

    /// [`IdleKind::Writer`] after so long without a write. Zero or `None`, the default: never.
    pub fn writer(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.writer.set(timeout);
        self
    }

    /// [`IdleKind::All`] after so long without either. Zero or `None`, the default: never.
    pub fn all(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.all.set(timeout);
        self
    }

    /// Whether writer and all are told apart from an output that makes progress, if slowly: events
    /// that only repeat the first are then left out. Default `false`.
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
        // The operating system may have taken nothing.
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
