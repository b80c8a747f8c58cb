//! [`pause`]: the interval between two lists of a stream.

use std::time::Duration;

/// Changes within this time are sent together.
const COALESCE: Duration = Duration::from_millis(50);
/// Additional delay per MiB of the list, so that long lists that change constantly fill neither the
/// network nor the cores of their readers.
const COALESCE_PER_MIB: Duration = Duration::from_millis(100);

/// The pause after a list of this length.
pub(crate) fn pause(bytes: usize) -> Duration {
    let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    COALESCE.saturating_add(COALESCE_PER_MIB.saturating_mul(mib))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_told_more_rarely() {
        assert_eq!(pause(1_000), COALESCE);
        assert!(pause(15 << 20) > Duration::from_secs(1));
    }
}
