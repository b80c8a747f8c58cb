//! The clock of connections.

use std::time::Instant;

/// The time, as the runtime has it: virtual while a test has paused it.
pub(crate) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
