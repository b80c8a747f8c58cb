//! The lock of a connection. Unit tests that explore interleavings switch tasks here.

#[cfg(test)]
use std::cell::Cell;
use std::sync::{MutexGuard, PoisonError, TryLockError};

/// A mutex that a panic does not poison, on cache lines of its own. What all callers read, they
/// would otherwise fetch again whenever one of them has changed what is beside it. 128, since
/// processors fetch lines in pairs.
#[repr(align(128))]
pub(super) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(test)]
        switch();
        // Handlers' panics are caught by the pipeline, so what is behind the lock is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while the lock is held.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        #[cfg(test)]
        switch();
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Set on a thread that explores interleavings.
    pub(super) static EXPLORING: Cell<bool> = const { Cell::new(false) };
}

/// Lets another task run here, if interleavings are explored. All tasks of an exploration share a
/// thread and never switch while they hold a lock, so a lock that is taken is free.
#[cfg(test)]
pub(super) fn switch() {
    if EXPLORING.get() {
        shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
    }
}
