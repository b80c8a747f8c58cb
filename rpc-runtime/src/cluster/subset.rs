//! [`Subset`]: how many addresses of a service a client uses.

use super::addresses::Reachability;
use crate::client::SubsetSize;

/// How many addresses of a service a client uses.
///
/// A subset is in effect from the list that is longer than `SubsetSize::above` to the list that is
/// not longer than the subset. So a length that varies around `above` does not open and close
/// connections, and the end of a subset changes nothing.
pub(super) struct Subset {
    settings: SubsetSize,
    is_in_effect: bool,
}

impl Subset {
    pub(super) fn new(settings: SubsetSize) -> Self {
        Self { settings, is_in_effect: false }
    }

    pub(super) fn is_in_effect(&self) -> bool {
        self.is_in_effect
    }

    /// How many addresses are to be connected.
    pub(super) fn connected(&self) -> usize {
        if self.is_in_effect { self.settings.size } else { 0 }
    }

    /// The number of addresses to use of so many.
    ///
    /// As many others are used beside those that cannot be connected to. If that are all, the number
    /// doubles, so that the few that work are found soon in a long list.
    pub(super) fn size(
        &mut self,
        known: usize,
        Reachability { in_use, unreachable }: Reachability,
    ) -> usize {
        let SubsetSize { size, above } = self.settings;
        if known > above {
            self.is_in_effect = true;
        } else if known <= size {
            self.is_in_effect = false;
        }
        match self.is_in_effect {
            false => usize::MAX,
            true if unreachable == in_use => size.max(in_use.saturating_mul(2)),
            true => size.saturating_add(unreachable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subset() -> Subset {
        Subset::new(SubsetSize { size: 20, above: 100 })
    }

    fn seen(in_use: usize, unreachable: usize) -> Reachability {
        Reachability { in_use, unreachable }
    }

    #[test]
    fn a_length_around_the_threshold_does_not_switch_the_subset_on_and_off() {
        let mut subset = subset();
        let sizes = [100, 101, 100, 99, 21].map(|known| subset.size(known, seen(20, 0)));
        assert_eq!(sizes, [usize::MAX, 20, 20, 20, 20]);
        let sizes = [20, 21, 100, 101].map(|known| subset.size(known, seen(20, 0)));
        assert_eq!(sizes, [usize::MAX, usize::MAX, usize::MAX, 20]);
    }

    #[test]
    fn members_that_cannot_be_reached_do_not_count() {
        let mut subset = subset();
        assert_eq!(subset.size(50, seen(50, 7)), usize::MAX);
        assert_eq!(subset.size(1_000, seen(0, 0)), 20);
        assert_eq!(subset.size(1_000, seen(20, 7)), 27);
    }

    #[test]
    fn the_few_that_work_of_a_long_list_are_found_soon() {
        let mut subset = subset();
        let mut in_use = 0;
        for reviews in 0.. {
            in_use = subset.size(20_000, seen(in_use, in_use));
            if in_use > 20_000 {
                assert_eq!(reviews, 10);
                return;
            }
        }
    }
}
