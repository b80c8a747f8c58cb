//! [`LogLimit`]: log lines that a flood does not multiply.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind are at least so far apart.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets a log line of one kind pass every ten seconds, and counts those that it holds back. What
/// strangers can cause must not fill a disk.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    /// When the next line may pass.
    next: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Lines { next: None, held_back: 0 }))
    }

    /// Whether to log this one: then, how many were held back before it.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.next.is_some_and(|next| now < next) {
            lines.held_back = lines.held_back.saturating_add(1);
            return None;
        }
        lines.next = now.checked_add(PAUSE);
        Some(std::mem::take(&mut lines.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_the_next_one_counts_it() {
        let limit = LogLimit::new();
        let start = Instant::now();
        assert_eq!(limit.pass(start), Some(0));
        for _ in 0..1_000 {
            assert_eq!(limit.pass(start + PAUSE / 2), None);
        }
        assert_eq!(limit.pass(start + PAUSE), Some(1_000));
        assert_eq!(limit.pass(start + PAUSE * 2), Some(0));
    }
}
