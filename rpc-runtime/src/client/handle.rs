//! [`Client`]: a handle for calls.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection_info::ConnectionInfo;
use super::connections::StateChanges;
use super::encoding::Encoding;
use super::picker::Picker;
use super::settings::EndpointSettings;
use crate::call::{Interceptor, Interceptors};
use crate::connection::ChannelHandle;
use crate::metadata::Metadata;
use crate::observe::MethodMetrics;
use crate::protocol::DecodeLimits;

/// Timeout of calls for which neither the caller nor the contract sets one: 10 s.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle for calls to one provider, or to all providers of a service. Generated stubs wrap it.
///
/// Connections live in the tokio runtime in which the client was built, also those that are made
/// again. That runtime must be running while calls are made, also from other runtimes: the tasks of
/// the connections enforce the deadlines.
///
/// Cheap to clone; clones share the connections. The settings of a clone
/// ([`with_timeout`](Self::with_timeout), …) are its own.
#[derive(Clone)]
pub struct Client {
    pub(super) picker: Arc<dyn Picker>,
    pub(super) interceptors: Interceptors,
    pub(super) timeout: Option<Duration>,
    pub(super) default_timeout: Duration,
    pub(super) wait_for_ready: bool,
    pub(super) encoding: Encoding,
    /// Limits for decoding results.
    pub(super) decode: DecodeLimits,
    pub(super) metadata: Option<Arc<Metadata>>,
    /// If metrics are on.
    pub(super) methods: Option<Arc<MethodMetrics>>,
}

impl Client {
    /// The same client with this timeout for its calls. It overrides the timeout of the contract.
    /// At most 49 days; a longer one counts as 49 days.
    ///
    /// A call made within a method is also bounded by the deadline of that method.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// The same client with this metadata on each call. Providers read it with
    /// [`Context::metadata`](crate::Context::metadata). Limit of all metadata of a call: 16 KiB.
    #[must_use]
    pub fn with_metadata(&self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let mut metadata = self.metadata.as_deref().cloned().unwrap_or_default();
        metadata.insert(key.into(), value.into());
        Self { metadata: Some(Arc::new(metadata)), ..self.clone() }
    }

    /// The same client, with or without waiting for a connection. Default: the setting of
    /// [`ClientBuilder::wait_for_ready`](crate::ClientBuilder::wait_for_ready).
    ///
    /// A call always waits for a connection attempt in progress. When there is none, and none is
    /// due ([`BackOff`](crate::BackOff)) or no provider is registered, a call fails at once as
    /// unavailable. With `true` it waits within its deadline for the next attempts instead. When
    /// the deadline passes, the source of the error is the last failure, and nothing was sent.
    ///
    /// This is gRPC's [wait for ready](https://grpc.io/docs/guides/wait-for-ready/).
    #[must_use]
    pub fn with_wait_for_ready(&self, wait: bool) -> Self {
        Self { wait_for_ready: wait, ..self.clone() }
    }

    /// The same client with one more interceptor, the innermost one: see
    /// [`ClientBuilder::interceptor`](crate::ClientBuilder::interceptor).
    #[must_use]
    pub fn with_interceptor(&self, interceptor: impl Interceptor) -> Self {
        Self { interceptors: self.interceptors.clone().with(interceptor), ..self.clone() }
    }

    /// The state of each connection, in the order in which the addresses became known. Includes
    /// connections that are not open, and those that drain at an address that has left the
    /// registry.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.picker.settings().all.infos()
    }

    /// Observes changes of [`connections`](Self::connections).
    ///
    /// ```
    /// # async fn follow(client: rpc_runtime::Client) {
    /// let mut changes = client.state_changes();
    /// while let Some(connections) = changes.changed().await {
    ///     for connection in connections {
    ///         println!("{}: {:?}", connection.uri, connection.state);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn state_changes(&self) -> StateChanges {
        self.picker.settings().all.changes()
    }

    /// Closes the connections of all clones gracefully: no new call starts, the providers get a
    /// goaway, and calls and streams in progress get the time of
    /// [`ClientBuilder::drain_timeout`](crate::ClientBuilder::drain_timeout). After that, the
    /// connections are closed, and the remaining calls fail as unavailable.
    ///
    /// New calls, and calls that wait for a connection or for their turn on it, fail at once as
    /// unavailable; a retry elsewhere is safe. Connection attempts are cancelled, and the watch of
    /// the registry ends. To close the client of a stub, call `stub.as_ref().close()`.
    ///
    /// Returns when no connection is left. Can be called more than once.
    ///
    /// # Cancel safety
    ///
    /// Once the future was polled, the client is closed even if the future is dropped.
    pub async fn close(&self) {
        self.picker.close();
        let EndpointSettings { all, drain_timeout, runtime, channel, .. } = self.picker.settings();
        all.close(*drain_timeout, runtime, channel.observer);
        all.ended().await;
    }

    /// The open connections.
    pub fn channels(&self) -> Vec<ChannelHandle> {
        self.picker.open().into_iter().map(ChannelHandle::new).collect()
    }

    /// The same client with this encoding of structs.
    #[must_use]
    pub fn with_encoding(&self, encoding: Encoding) -> Self {
        Self { encoding, ..self.clone() }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.picker.describe())
            .field("timeout", &self.timeout.unwrap_or(self.default_timeout))
            .finish_non_exhaustive()
    }
}

/// Longest timeout: what 32 bits of milliseconds hold, 49 days.
const MAX_TIMEOUT: Duration = Duration::from_millis(u32::MAX as u64);

pub(super) fn deadline_after(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout.min(MAX_TIMEOUT)).unwrap_or(now)
}
