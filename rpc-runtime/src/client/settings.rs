//! [`EndpointSettings`].

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::back_off::BackOff;
use super::connections::Connections;
use crate::connection::{ChannelSettings, Initializer};
use crate::transport::ConnectSettings;

/// The settings and resources that all endpoints of a client share.
pub(crate) struct EndpointSettings {
    pub(crate) channel: Arc<ChannelSettings>,
    pub(crate) initializer: Option<Initializer>,
    pub(crate) connect_timeout: Duration,
    pub(crate) transport: ConnectSettings,
    pub(crate) back_off: BackOff,
    /// Time for calls in progress when the client is closed.
    pub(crate) drain_timeout: Duration,
    /// Links of each endpoint, at least 1.
    pub(crate) connections: usize,
    pub(crate) all: Arc<Connections>,
    /// Permits for connection attempts.
    pub(crate) connecting: Semaphore,
    /// The runtime of all connections, regardless of the caller's.
    pub(crate) runtime: Handle,
}
