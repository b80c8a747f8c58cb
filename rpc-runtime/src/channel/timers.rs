//! The times at which a driver looks by itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often an end that reads no more looks whether its peer is still there.
const CLOSED_CHECK: Duration = Duration::from_secs(1);
/// Deadlines are looked at this often at most, so they fire up to this much late.
const TICK: Duration = Duration::from_millis(5);
/// How long a connection that is to be closed may take to write what it still has.
const LAST_WRITES: Duration = Duration::from_secs(5);
/// A connection that has been at rest for so long gives back the memory that it kept.
const REST: Duration = Duration::from_secs(1);

/// The timers of one driver, and the one sleep that wakes it for the first of them.
pub(super) struct Timers {
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// What `sleep` is set to.
    armed: Option<Instant>,
    close_by: Option<Instant>,
    /// When to look whether the peer is still there, while nothing is read.
    closed_check: Option<Instant>,
    /// When to look whether the connection has rested, if it keeps memory.
    rested: Option<Instant>,
    /// It had work since the last such look.
    worked: bool,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            close_by: None,
            closed_check: None,
            rested: None,
            worked: false,
        }
    }

    /// The connection has work, and keeps memory for more.
    pub(super) fn work(&mut self) {
        self.worked = true;
    }

    /// Whether a connection that is to be closed has had its time to write what it still has. The
    /// time begins with the first look.
    pub(super) fn must_close(&mut self, now: Instant) -> bool {
        *self.close_by.get_or_insert(now + LAST_WRITES) <= now
    }

    /// Whether to look if the peer is still there. An end that reads hears of its end anyhow.
    pub(super) fn checks_closed(&mut self, now: Instant, reads: bool) -> bool {
        if reads {
            self.closed_check = None;
            return false;
        }
        let due = *self.closed_check.get_or_insert(now + CLOSED_CHECK);
        if due <= now {
            self.closed_check = Some(now + CLOSED_CHECK);
        }
        due <= now
    }

    /// Whether the connection has been at rest, so that memory may go. Says so once.
    pub(super) fn has_rested(&mut self, now: Instant, is_idle: impl FnOnce() -> bool) -> bool {
        if self.worked && self.rested.is_none() {
            self.rested = Some(now + REST);
        }
        if self.rested.take_if(|due| *due <= now).is_none() {
            return false;
        }
        if std::mem::take(&mut self.worked) || !is_idle() {
            self.rested = Some(now + REST);
            return false;
        }
        true
    }

    /// Sets the sleep to the first of these times and of its own. Returns it.
    pub(super) fn arm(
        &mut self,
        now: Instant,
        others: impl IntoIterator<Item = Option<Instant>>,
    ) -> Option<Instant> {
        let own = [self.close_by, self.closed_check, self.rested];
        let next = others.into_iter().chain(own).flatten().min();
        if let Some(next) = next
            && (Some(next) != self.armed || self.sleep.is_elapsed())
        {
            self.sleep.as_mut().reset(next.max(now + TICK).into());
        }
        self.armed = next;
        next
    }

    /// Ready when the time has come that was armed.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.armed {
            None => Poll::Pending,
            Some(_) => self.sleep.as_mut().poll(cx),
        }
    }
}
