//! [`DriverSlot`]: what others know of a connection's driver.

use std::task::Waker;
use std::time::Instant;

/// What others know of the driver: how it is woken, and when it wakes by itself.
#[derive(Default)]
pub(in crate::connection) struct DriverSlot {
    /// `None` once it was woken, until it looks.
    waker: Option<Waker>,
    armed: Option<Instant>,
    /// It has stopped reading because a handler asked for it.
    paused: bool,
    /// It runs, and looks at everything before it stops.
    #[cfg(debug_assertions)]
    running: bool,
}

impl DriverSlot {
    /// The driver is about to look.
    pub(super) fn register(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// The driver, unless it was woken already.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    /// Whether it has not been woken since it looked.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.waker.is_some()
    }

    /// Whether it would wake too late for something that is due at this time.
    #[inline]
    pub(super) fn misses(&self, due: Option<Instant>) -> bool {
        match (due, self.armed) {
            (Some(due), Some(armed)) => due < armed,
            (due, None) => due.is_some(),
            (None, _) => false,
        }
    }

    pub(super) fn arm(&mut self, at: Option<Instant>, paused: bool) {
        self.armed = at;
        self.paused = paused;
    }

    /// It runs, and is due again at once.
    pub(super) fn runs_until(&mut self, now: Instant) {
        self.armed = Some(now);
    }

    pub(super) fn armed(&self) -> Option<Instant> {
        self.armed
    }

    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// For the check of invariants.
    #[cfg(debug_assertions)]
    pub(super) fn set_running(&mut self, running: bool) {
        self.running = running;
    }

    #[cfg(debug_assertions)]
    pub(super) fn is_running(&self) -> bool {
        self.running
    }
}
