//! [`ConnectionInfo`]: one connection of a client, and the link behind it.

use std::sync::Arc;

use super::pick::Pick;
use crate::connection::Channel;
use crate::error::RpcError;

/// The state of one connection of a [`Client`](crate::Client).
///
/// ```text
///            a call                    hello
///   Idle ─────────────▶ Connecting ─────────────▶ Ready
///    ▲ ▲                 │      ▲                  │ │
///    │ │          failed │      │ a call, later    │ │ lost
///    │ │                 ▼      │                  │ └────▶ Idle; BackingOff if
///    │ └──────────────── BackingOff                │        it was lost at once
///    │   announced anew                            │ goaway
///    └──────────────────────────────────────── Draining
/// ```
///
/// When the address leaves the registry or the client is closed, any state changes to `Closed`, or
/// first to `Draining` while calls are in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// There is no connection. The next call opens one.
    Idle,
    /// An attempt is in progress. Calls wait for it.
    Connecting,
    /// The provider has sent its hello. Calls are sent.
    Ready,
    /// The connection takes no new calls and stays open for calls in progress: the provider is
    /// about to close, or the address is no longer in use. In the first case, the next call opens a
    /// new connection, and the state is then that of the new one.
    Draining,
    /// The last attempt failed, or the last connections were lost at once. Calls fail at once,
    /// unless they [wait](crate::Client::with_wait_for_ready). After the pause, the next call
    /// connects; the state does not change before that.
    BackingOff,
    /// The address has left the registry, or the client was closed. Final.
    Closed,
}

/// A snapshot of one connection of a [`Client`](crate::Client).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The address.
    pub uri: String,
    /// Its state.
    pub state: ConnectionState,
    /// Number of connections opened after the first one.
    pub reconnects: u64,
    /// The reason of the last failed attempt or the last end of a connection, whichever was later.
    /// It is kept while there is a new connection.
    pub last_error: Option<RpcError>,
}

/// The interface of a link for the list of all links.
pub(super) trait KnownLink: Send + Sync {
    /// The client is closed: no new calls and no more attempts; the provider gets a goaway.
    fn close(&self, why: RpcError);

    /// The connections that have not ended.
    fn channels(&self) -> Vec<Arc<Channel>>;

    fn info(&self) -> ConnectionInfo;

    /// The connection, if there is one.
    fn pick_ready(self: Arc<Self>) -> Option<Pick>;

    /// Clears the mark of a link that was found in [`ReadyLinks`] without a connection. Returns
    /// whether it still has none: a new connection adds the link again only after the mark is
    /// cleared.
    fn forget_ready(&self) -> bool;
}
