//! [`ReadyLinks`]: the connected links of a client.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::connection_info::KnownLink;
use super::pick::Pick;

/// The connected links of a client, for lists of addresses that are too long for a call to search.
///
/// A link that has lost its connection is removed when it is picked.
#[derive(Default)]
pub(super) struct ReadyLinks(Mutex<Ready>);

#[derive(Default)]
struct Ready {
    links: Vec<Weak<dyn KnownLink>>,
    next: usize,
}

impl ReadyLinks {
    /// Adds a connected link. It must not be contained yet.
    pub(super) fn add(&self, link: &Arc<dyn KnownLink>) {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.links.len() == ready.links.capacity() {
            // Only when the vector would grow, so each link costs constant time.
            ready.links.retain(|link| link.strong_count() > 0);
        }
        if ready.links.is_empty() {
            // Most clients have one.
            ready.links.reserve_exact(1);
        }
        ready.links.push(Arc::downgrade(link));
    }

    /// A connection that accepts calls, a different one each time.
    pub(super) fn pick(&self) -> Option<Pick> {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready.links.is_empty() {
            let turn = ready.next.checked_rem(ready.links.len()).unwrap_or(0);
            ready.next = turn.wrapping_add(1);
            let link = ready.links.get(turn).and_then(Weak::upgrade);
            if let Some(link) = link {
                if let Some(pick) = Arc::clone(&link).pick_ready() {
                    return Some(pick);
                }
                if !link.forget_ready() {
                    continue;
                }
            }
            ready.links.swap_remove(turn);
        }
        None
    }
}
