//! The limits of a server.

use std::time::Duration;

use super::ServerBuilder;
use crate::budget::MemoryLimits;
use crate::connection::MIN_SLOW_READER_TIMEOUT;
use crate::pipeline::Watermarks;

/// A shorter one would refuse clients with a slow network path.
const MIN_HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(100);

impl ServerBuilder {
    /// Largest payload, arguments or result, in bytes. A larger one fails that call only. Default
    /// 8 MiB; at most 4 GiB.
    ///
    /// [`memory_limits`](Self::memory_limits) bounds how many payloads of that size are held at a
    /// time.
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

    /// Limits of the memory that the server holds for its clients. Default: 32 MiB per connection,
    /// 128 MiB per address, and a quarter of the machine's memory in total. See [`MemoryLimits`].
    pub fn memory_limits(mut self, limits: MemoryLimits) -> Self {
        self.memory = limits;
        self
    }

    /// Minimum rate of a client, in bytes per second. Default 4,096. The connection of a slower
    /// client is closed.
    ///
    /// It holds for sending a frame that has begun, measured over 15 s, and for reading responses
    /// that wait, measured over [`slow_reader_timeout`](Self::slow_reader_timeout). With 0, a frame
    /// may take any time, and reading any byte is enough.
    pub fn min_rate(mut self, bytes_per_second: u32) -> Self {
        self.settings.min_rate = bytes_per_second;
        self
    }

    /// Maximum requests of one connection that run in separate tasks. Default 1,024; at least 1.
    /// The hello announces it, and further calls of a client wait. If a client sends more, the
    /// connection is not read until half of the requests have ended.
    pub fn max_concurrent_requests(mut self, requests: usize) -> Self {
        self.settings.max_concurrent_requests = requests.max(1);
        self
    }

    /// Maximum requests of all connections that run in separate tasks. Default 65,536; at least 1.
    ///
    /// A connection may have one more while it has fewer than are free: one connection alone gets
    /// half, two get a third each. The connections of one address (counted as for
    /// [`memory_limits`](Self::memory_limits)) may have one more while together they have fewer
    /// than 15 times as many as are free: one address alone gets 15 of 16. Further requests are
    /// refused with the status `overloaded`, which is safe to retry; connections and addresses with
    /// fewer requests are still served. Requests that are answered at once do not count.
    pub fn max_total_concurrent_requests(mut self, requests: usize) -> Self {
        self.work.requests = requests.max(1);
        self
    }

    /// Maximum threads for [`blocking`](crate::Dispatch::Blocking) methods. Default 512, as in
    /// tokio; at least 1.
    ///
    /// The server has its own pool, so blocking methods do not delay other users of tokio's
    /// blocking pool. Threads are started on demand and end after 10 s without work. Addresses take
    /// turns, and so do the connections of each. Connections and addresses have the shares that
    /// [`max_total_concurrent_requests`](Self::max_total_concurrent_requests) describes. Of fewer
    /// than 17 threads an address with several connections may have all. Further calls wait, within
    /// their deadlines.
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        self.work.blocking_threads = threads.max(1);
        self
    }

    /// Maximum open connections. Default 16,384; at least 1. Further connections are refused with
    /// the status `overloaded` and a message that names this limit; their clients try again later.
    ///
    /// An idle connection takes a file descriptor and a few kilobytes. If the process may have
    /// fewer descriptors than this limit, further connections wait in the system's queue without a
    /// reason.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connections.total = connections.max(1);
        self
    }

    /// Maximum open connections from one IP address; at least 1. Default: no limit, since behind a
    /// proxy or an address translation all clients have one address. Further connections are
    /// refused as for [`max_connections`](Self::max_connections). An IPv6 /64 counts as one
    /// address, since one host can use all of it.
    ///
    /// Set it where untrusted clients can connect directly, so that one of them cannot use all
    /// connections.
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.connections.per_address = Some(connections.max(1));
        self
    }

    /// Time from accepting a connection to its first whole frame, the hello, TLS handshake
    /// included. Default 10 s; at least 100 ms. A slower connection is closed with `timeout`;
    /// otherwise silent connections would stay open for ever.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = Some(timeout.max(MIN_HANDSHAKE_TIMEOUT));
        self
    }

    /// Bytes of waiting output at which a connection counts as congested. No requests are read from
    /// it meanwhile. Default: 64 KiB; writable again below 32 KiB.
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.settings.watermarks = watermarks;
        self
    }

    /// Closes a connection when responses wait to be written and its client has read none of them
    /// for this time, or fewer bytes than [`min_rate`](Self::min_rate) requires. Default 30 s; at
    /// least 100 ms; [`Duration::MAX`] for never.
    ///
    /// Otherwise, a client that stops reading would hold the memory of the waiting output for ever.
    pub fn slow_reader_timeout(mut self, timeout: Duration) -> Self {
        self.settings.slow_reader_timeout = timeout.max(MIN_SLOW_READER_TIMEOUT);
        self
    }
}
