//! The memory of the arguments of the chain of interceptors that is being polled.
//!
//! The method is behind the futures of the interceptors, and its arguments count for the request
//! around them.

use std::cell::Cell;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Sets the bytes of the chain that is polled, and returns those of an outer chain.
pub(super) fn replace(bytes: usize) -> usize {
    BYTES.replace(bytes)
}

/// Sets the bytes of the chain that is polled.
pub(super) fn set(bytes: usize) {
    BYTES.set(bytes);
}
