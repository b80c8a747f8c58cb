//! The counter of allocations of this process, if it has one.

use std::sync::OnceLock;

use crate::Result;
use crate::report::{self, Totals};

static COUNTER: OnceLock<fn() -> u64> = OnceLock::new();

/// Sets the function that returns the number of allocations. Only the first call has an effect.
pub fn count_with(counter: fn() -> u64) {
    COUNTER.get_or_init(|| counter);
}

/// Prints the counts.
pub(crate) fn print_totals() -> Result<()> {
    report::print(&Totals { allocations: COUNTER.get().map(|counter| counter()) })
}
