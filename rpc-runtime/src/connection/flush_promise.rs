//! [`FlushPromise`]: the promise to flush a channel.

use std::time::Instant;

use super::channel::Channel;

/// The promise to flush a channel, given at that time. It is kept when it is dropped, so a caller
/// that is cancelled between its promise and its flush still keeps it.
pub(super) struct FlushPromise<'c> {
    channel: &'c Channel,
    given: Instant,
}

impl<'c> FlushPromise<'c> {
    /// For who has taken on the duty to flush.
    pub(super) fn new(channel: &'c Channel, given: Instant) -> Self {
        Self { channel, given }
    }
}

impl Drop for FlushPromise<'_> {
    fn drop(&mut self) {
        self.channel.flush(self.given);
    }
}
