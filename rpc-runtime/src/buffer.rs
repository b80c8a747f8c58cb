//! A pool of byte buffers per thread, so that a call usually needs no new buffer.

use std::cell::RefCell;

use crate::protocol::Output;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Maximum buffers per thread.
const MAX_POOLED: usize = 64;
/// Maximum capacity of a pooled buffer. A larger one is freed, so that one large payload does not
/// occupy memory permanently.
pub(crate) const MAX_KEPT: usize = 64 << 10;

/// Takes an empty buffer.
pub(crate) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Returns the buffer of an output to the pool.
pub(crate) fn give_output(mut output: Output) {
    give(std::mem::take(output.small_mut()));
}

/// Returns a buffer to the pool, for the next [`take`] on this thread.
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
