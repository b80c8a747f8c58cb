//! [`AnswerSize`]: the expected memory of a method's response, and errors for lack of memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::budget::FREE;
use crate::connection::LargestAnswer;
use crate::error::RpcError;
use crate::status::Status;

/// The size of the largest answer that a method has given, if it is large.
#[derive(Debug, Default)]
pub(super) struct AnswerSize(AtomicUsize);

impl AnswerSize {
    /// Expected bytes of the next response to a connection; 0 if it is likely to be small.
    ///
    /// It also depends on the connection: otherwise one client with large responses would make all
    /// others wait for memory that they do not need.
    #[inline]
    pub(super) fn expected(&self, connection: &LargestAnswer) -> usize {
        match self.0.load(Ordering::Relaxed) {
            0 => 0,
            largest => connection.get().map_or(largest, |own| largest.min(own)),
        }
    }

    /// Records a response of `bytes` bytes. Returns whether it was expected.
    pub(super) fn gave(&self, connection: &LargestAnswer, bytes: usize) -> bool {
        let large = if bytes > FREE { bytes } else { 0 };
        let surprising = large > 0 && self.is_large() && self.expected(connection) == 0;
        if large > 0 {
            self.0.fetch_max(large, Ordering::Relaxed);
        }
        connection.add(large);
        !surprising
    }

    fn is_large(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// The error of a decoded request that is not begun for lack of memory.
pub(super) fn no_memory_for_arguments(bytes: usize) -> RpcError {
    let why = format!("there is no memory for arguments of {bytes} bytes (`MemoryLimits`)");
    RpcError::new(Status::Overloaded, why).unexecuted()
}

/// The error in place of a response for which no memory was claimed. The method has run.
pub(super) fn no_memory(bytes: usize) -> RpcError {
    let why = format!("there is no memory for the response of {bytes} bytes (`MemoryLimits`)");
    RpcError::new(Status::Overloaded, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_answer_is_expected_by_who_had_one_or_had_none_at_all() {
        let method = AnswerSize::default();
        let [large, small, new] = <[LargestAnswer; 3]>::default();
        assert!(method.gave(&small, FREE));
        assert!(method.gave(&large, 9 * FREE));
        assert!(method.gave(&large, 7 * FREE));
        assert_eq!([&large, &small, &new].map(|c| method.expected(c)), [9 * FREE, 0, 9 * FREE]);
        assert!(!method.gave(&small, 2 * FREE), "a surprise");
        assert!(method.gave(&small, 2 * FREE));
        assert_eq!(method.expected(&small), 2 * FREE);
        assert_eq!(AnswerSize::default().expected(&large), 0, "another method");
    }
}
