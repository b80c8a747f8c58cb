//! Who counts the allocations of this process, if somebody does.

use std::sync::OnceLock;

use crate::Result;
use crate::report::{self, Totals};

static COUNTER: OnceLock<fn() -> u64> = OnceLock::new();

/// From now on, `counter` says how many allocations there were. Only the first one counts.
pub fn count_with(counter: fn() -> u64) {
    COUNTER.get_or_init(|| counter);
}

/// Prints what was counted.
pub(crate) fn print_totals() -> Result<()> {
    report::print(&Totals { allocations: COUNTER.get().map(|counter| counter()) })
}
