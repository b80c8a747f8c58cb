//! [`Effects`]: what a change of a connection's state asks for.

use std::task::Waker;
use std::time::Instant;

use tokio::task::AbortHandle;

/// What is to be done once the lock is released, because the state has changed. `Channel` applies
/// it, and nothing else does.
#[derive(Default)]
pub(in crate::connection) struct Effects {
    /// The first of the tasks to be woken whose calls have ended: of most batches it is the only one.
    /// Beside the others, so that it takes no allocation.
    pub(in crate::connection) caller: Option<Waker>,
    /// Tasks to be woken.
    pub(in crate::connection) wakers: Vec<Waker>,
    /// The driver, which is to look at the state. Beside the others for the same reason.
    pub(in crate::connection) driver: Option<Waker>,
    /// Tasks to be aborted.
    pub(in crate::connection) aborts: Vec<AbortHandle>,
    /// The output is to be flushed now; the time of the change.
    pub(in crate::connection) flush: Option<Instant>,
    /// A writer writes on, or stops and looks at the driver itself.
    pub(in crate::connection) writing: bool,
    /// The connection has ended.
    pub(in crate::connection) closed: bool,
    /// The peer has said how often it expects a sign of life.
    pub(in crate::connection) heartbeat_told: bool,
    /// A stream was ended because its memory was needed.
    pub(in crate::connection) stream_refused: bool,
}

impl Effects {
    /// The call of this task has ended.
    #[inline]
    pub(super) fn wake_caller(&mut self, caller: Waker) {
        if self.caller.is_none() && self.wakers.is_empty() {
            self.caller = Some(caller);
        } else {
            self.wakers.push(caller);
        }
    }

    /// Whether there is nothing to be done beside a flush, and no memory to be freed.
    #[inline]
    pub(in crate::connection) fn is_empty(&self) -> bool {
        let flags = self.closed | self.heartbeat_told | self.stream_refused;
        let tasks = self.wakers.capacity() | self.aborts.capacity();
        !flags && tasks == 0 && self.driver.is_none() && self.caller.is_none()
    }
}
