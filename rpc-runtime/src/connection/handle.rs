//! [`ChannelHandle`]: an open connection, to look at and to change.

use std::fmt;
use std::sync::Arc;

use super::channel::Channel;
use crate::certificate::PeerCertificate;
use crate::error::RpcError;
use crate::handlers::HeartbeatState;
use crate::pipeline::Change;

/// A handle to an open connection of a [`Client`](crate::Client) or a [`Server`](crate::Server), to
/// inspect its pipeline and to change it during calls.
///
/// Keeping a handle does not keep the connection open.
#[derive(Clone)]
pub struct ChannelHandle(Arc<Channel>);

impl ChannelHandle {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Self(channel)
    }

    /// The URI of the other end.
    pub fn peer(&self) -> &str {
        self.0.peer()
    }

    /// The verified certificate of the other end, on `tls:` connections.
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.0.peer_certificate().map(|certificate| &**certificate)
    }

    /// The names of the pipeline's handlers, from the socket to the calls.
    pub fn handlers(&self) -> Vec<String> {
        self.0.look(|state| state.handler_names().map(str::to_owned).collect())
    }

    /// Heartbeat statistics of the connection.
    pub fn heartbeat(&self) -> HeartbeatState {
        self.0.heartbeat().state()
    }

    /// Adds, removes or replaces a handler.
    ///
    /// # Errors
    /// The name is taken, or there is no handler of the name that the change refers to. Nothing was
    /// changed.
    pub fn change(&self, change: Change) -> Result<(), RpcError> {
        self.0.change_pipeline(change)
    }
}

impl fmt::Debug for ChannelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelHandle")
            .field("peer", &self.peer())
            .field("handlers", &self.handlers())
            .finish()
    }
}
