//! [`LogLimit`]: a rate limit for log lines.

use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// Minimum time between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// A rate limit for one kind of log line: one line every ten seconds. Suppressed lines are counted.
///
/// For lines that a peer or a registry can cause, which must not fill a disk.
/// [`limited!`](crate::limited) writes a line with a limit of its own.
#[derive(Debug)]
pub struct LogLimit(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    /// When the next line may pass.
    next: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    /// A new limit. The first line passes.
    pub const fn new() -> Self {
        Self(Mutex::new(Lines { next: None, held_back: 0 }))
    }

    /// Whether to log a line now. If so, returns the number of lines suppressed before it.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock();
        if lines.next.is_some_and(|next| now < next) {
            lines.held_back = lines.held_back.saturating_add(1);
            return None;
        }
        lines.next = now.checked_add(PAUSE);
        Some(std::mem::take(&mut lines.held_back))
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a log line, at most every ten seconds per place in the code:
/// `limited!(warn, peer, %error, "a request failed")`. The field `held_back` counts the lines
/// suppressed since the previous one.
///
/// For lines that a peer or a registry can cause.
///
/// The first argument is the name of one of `tracing`'s macros, the others are its arguments.
/// `limit = EXPRESSION;` after the level uses that [`LogLimit`](crate::LogLimit) in place of the
/// line's own.
#[macro_export]
macro_rules! limited {
    ($level:ident, limit = $limit:expr; $($line:tt)+) => {
        if let ::core::option::Option::Some(held_back) =
            $crate::LogLimit::pass(&$limit, ::std::time::Instant::now())
        {
            $crate::__tracing::$level!(held_back, $($line)+);
        }
    };
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::LogLimit = $crate::LogLimit::new();
        $crate::limited!($level, limit = LIMIT; $($line)+);
    }};
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
