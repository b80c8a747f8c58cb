//! [`Flushing`]: the output of a connection on its way.

use std::time::{Duration, Instant};

use super::flush_duty::FlushDuty;
use crate::connection::unwritten::Unwritten;
use crate::protocol::Output;

/// How long a caller may take to keep its promise to flush. Its task was woken for it at once, but
/// a user's code may hold a future without polling it.
pub(super) const DUTY_GRACE: Duration = Duration::from_millis(20);

/// The output of a connection on its way.
pub(super) struct Flushing {
    pub(super) duty: FlushDuty,
    /// Frames that were written and not yet taken out to be sent.
    pub(super) gathered: usize,
    /// What has gathered leaves in several writes, so that the peer can begin.
    pub(super) split: bool,
    /// What the operating system did not take, until the driver takes it over.
    pub(super) unwritten: Unwritten,
    /// An empty buffer, kept for its allocation.
    pub(super) spare: Output,
    /// Threads that have left the lock and flush next.
    #[cfg(debug_assertions)]
    pub(super) following: i32,
}

impl Default for Flushing {
    fn default() -> Self {
        Self {
            duty: FlushDuty::default(),
            gathered: 0,
            split: true,
            unwritten: Unwritten::default(),
            spare: Output::default(),
            #[cfg(debug_assertions)]
            following: 0,
        }
    }
}

impl Flushing {
    #[inline]
    pub(super) fn gathered(&mut self) {
        self.gathered += 1;
    }

    /// So many frames have gathered that the peer had better begin with them.
    #[inline]
    pub(super) fn has_gathered(&self, enough: usize) -> bool {
        self.gathered >= enough && !self.duty.is_writing()
    }

    /// A promise is given that is kept later.
    pub(super) fn promise(&mut self, now: Instant) {
        self.duty.look_at(now + DUTY_GRACE);
    }

    /// What the operating system did not take, for the driver.
    pub(super) fn take_unwritten(&mut self) -> Option<Unwritten> {
        (!self.unwritten.is_empty()).then(|| std::mem::take(&mut self.unwritten))
    }

    /// Nothing waits for the driver to write it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.unwritten.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        self.spare = Output::default();
    }
}
