//! Byte buffers that are used again, so that in steady state a call needs no new one.

use std::cell::RefCell;

use crate::protocol::Output;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers kept per thread.
const MAX_POOLED: usize = 64;
/// A buffer that grew beyond this is freed: one large payload must not occupy memory for ever.
pub(crate) const MAX_KEPT: usize = 64 << 10;

/// An empty buffer.
pub(crate) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// The same for the buffer of an output.
pub(crate) fn give_output(mut output: Output) {
    give(std::mem::take(output.small_mut()));
}

/// Gives a buffer back for the next [`take`] on this thread.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > MAX_KEPT {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < MAX_POOLED {
            pool.push(buffer);
        }
    });
}
