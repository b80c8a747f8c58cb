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
use crate::observe::Methods;
use crate::protocol::DecodeLimits;

/// How long a call may take when neither the caller nor the contract says: 10 s.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle for calls: to one peer, or to all the providers of a service. Generated stubs wrap it.
///
/// A client lives in the tokio runtime that it was connected in: connections are made there, also
/// when they are made again. That runtime must be running while calls are made, from wherever they
/// are: the connection's task, which is there, keeps the deadlines too.
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
    pub(super) methods: Option<Arc<Methods>>,
}

impl Client {
    /// The same client with another timeout for its calls. It goes before the one of the contract.
    ///
    /// A call inside of a handler is bounded by that handler's own deadline as well. Longer than
    /// 49 days counts as 49 days.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// The same client, sending this text along with each call. Providers read it with
    /// [`Context::metadata`](crate::Context::metadata). All of it together may have 16 KiB.
    #[must_use]
    pub fn with_metadata(&self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let mut metadata = self.metadata.as_deref().cloned().unwrap_or_default();
        metadata.insert(key.into(), value.into());
        Self { metadata: Some(Arc::new(metadata)), ..self.clone() }
    }

    /// The same client, whose calls wait for a connection, or do not.
    ///
    /// A call that finds an attempt to connect under way waits for it in any case. When there is
    /// none, and none is due ([`BackOff`]) or no provider is registered, a call fails at once, as
    /// unavailable; with `true` it waits within its deadline for the next attempt, and for the ones
    /// after that. When the deadline passes, its error has the last failure as the source. Nothing
    /// was sent then. Default: what [`ClientBuilder::wait_for_ready`] says.
    ///
    /// This is gRPC's [wait for ready](https://grpc.io/docs/guides/wait-for-ready/).
    #[must_use]
    pub fn with_wait_for_ready(&self, wait: bool) -> Self {
        Self { wait_for_ready: wait, ..self.clone() }
    }

    /// The same client, whose calls pass through one more interceptor, the innermost: see
    /// [`ClientBuilder::interceptor`](crate::ClientBuilder::interceptor).
    #[must_use]
    pub fn with_interceptor(&self, interceptor: impl Interceptor) -> Self {
        Self { interceptors: self.interceptors.clone().with(interceptor), ..self.clone() }
    }

    /// Where each connection stands, those that are being made or may be made included, and those
    /// that drain at an address that has left the registry. In the order in which their addresses
    /// became known.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.picker.settings().all.infos()
    }

    /// Follows [`connections`](Self::connections).
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

    /// Ends all connections, of every clone, without losing a call that was sent: no new call is
    /// begun, the providers are told that none will come (goaway), calls and streams under way get
    /// the time of [`ClientBuilder::drain_timeout`], and then the connections are closed. Calls that
    /// are not done by then fail as unavailable, with this as the cause.
    ///
    /// New calls, and those that still waited for a connection or for their turn on it, fail at once
    /// as unavailable; a retry elsewhere is safe. Attempts to connect are given up, and the registry
    /// is no longer watched. To close a stub's client, `stub.as_ref().close()`.
    ///
    /// Done when no connection is left; so is every further call of it.
    ///
    /// # Cancel safety
    ///
    /// Once it was polled, the client is closed whether or not the future is dropped.
    pub async fn close(&self) {
        self.picker.close();
        let EndpointSettings { all, drain_timeout, runtime, channel, .. } = self.picker.settings();
        all.close(*drain_timeout, runtime, channel.observer);
        all.ended().await;
    }

    /// The connections that are open now.
    pub fn channels(&self) -> Vec<ChannelHandle> {
        self.picker.open().into_iter().map(ChannelHandle::new).collect()
    }

    /// The same client, writing structs this way.
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
