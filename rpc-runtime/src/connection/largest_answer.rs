//! [`LargestAnswer`]: the size of the largest answer that a connection was given.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The size of the largest answer that a connection was given.
#[derive(Debug, Default)]
pub(crate) struct LargestAnswer(AtomicUsize);

impl LargestAnswer {
    /// None before the first answer, 0 while all were small.
    #[inline]
    pub(crate) fn get(&self) -> Option<usize> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    /// There was an answer; 0 stands for a small one.
    #[inline]
    pub(crate) fn add(&self, large: usize) {
        let code = large.saturating_add(1);
        if self.0.load(Ordering::Relaxed) < code {
            self.0.fetch_max(code, Ordering::Relaxed);
        }
    }
}
