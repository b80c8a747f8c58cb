//! What the items of a stream cost its credit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::HEADER_LEN;

/// Bytes that may be under way unasked. A sender may send while it has any credit left, so one item
/// of the payload limit can be on top.
pub(super) const WINDOW: usize = 256 << 10;

/// What an item costs: its header, too, so that empty ones are not for free.
pub(super) fn cost(item: usize) -> usize {
    item.saturating_add(HEADER_LEN)
}

/// The lock of one stream, which may be taken under that of the channel.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
