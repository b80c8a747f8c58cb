//! Limits of a client's connections.

use std::time::Duration;

use super::ClientBuilder;
use crate::budget::MemoryLimits;
use crate::connection::MIN_SLOW_READER_TIMEOUT;
use crate::pipeline::Watermarks;

impl ClientBuilder {
    /// Number of gathered frames that are written at once without waiting for more; at least 1.
    ///
    /// Default: while fewer connections of the process are busy than there are cores, a quarter of
    /// the frames in flight on the connection and at least 16, so that both ends work at the same
    /// time; otherwise 256, since larger writes cost less.
    pub fn flush_after(mut self, frames: usize) -> Self {
        self.settings.flush_after = Some(frames.max(1));
        self
    }

    /// Largest payload, arguments or result, in bytes. A larger one fails that call only. Default
    /// 8 MiB; at most 4 GiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.settings.max_payload = bytes;
        self
    }

    /// Maximum memory of one decoded value, in bytes: the arguments of a call, a result, or an item
    /// of a stream. Default: four times the encoded length, at least 32 MiB. A larger value fails
    /// only its call, with the status `decode`.
    ///
    /// Memory is charged before it is allocated, by the rules of
    /// [`DecodeLimits::memory`](crate::protocol::DecodeLimits::memory). Many small maps are charged
    /// more than other values of the same encoded length.
    pub fn max_decoded(mut self, bytes: usize) -> Self {
        self.settings.decode = self.settings.decode.memory(bytes);
        self
    }

    /// Limits of the memory that the client holds for its providers. Default: 32 MiB per
    /// connection, 128 MiB per address, and a quarter of the machine's memory in total. See
    /// [`MemoryLimits`].
    pub fn memory_limits(mut self, limits: MemoryLimits) -> Self {
        self.memory = limits;
        self
    }

    /// Minimum rate of a provider, in bytes per second. Default 4,096. The connection of a slower
    /// provider is closed.
    ///
    /// It holds for sending a frame that has begun, measured over 15 s, and for reading requests
    /// that wait, measured over [`slow_reader_timeout`](Self::slow_reader_timeout). With 0, a frame
    /// may take any time, and reading any byte is enough.
    pub fn min_rate(mut self, bytes_per_second: u32) -> Self {
        self.settings.min_rate = bytes_per_second;
        self
    }

    /// Maximum calls in flight on one connection; further calls wait within their deadlines.
    /// Default 16,384; at least 1.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.settings.max_in_flight = calls.max(1);
        self
    }

    /// Bytes of waiting output at which a connection counts as congested. New calls wait meanwhile.
    /// Default: 64 KiB; writable again below 32 KiB.
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.settings.watermarks = watermarks;
        self
    }

    /// Closes a connection when requests wait to be written and its provider has read none of them
    /// for this time, or fewer bytes than [`min_rate`](Self::min_rate) requires. Default 30 s; at
    /// least 100 ms; [`Duration::MAX`] for never.
    ///
    /// Otherwise, a provider that stops reading would hold the memory of the waiting output for
    /// ever.
    pub fn slow_reader_timeout(mut self, timeout: Duration) -> Self {
        self.settings.slow_reader_timeout = timeout.max(MIN_SLOW_READER_TIMEOUT);
        self
    }
}
