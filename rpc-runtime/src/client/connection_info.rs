//! [`ConnectionInfo`]: one connection of a client, and the link behind it.

use std::sync::Arc;

use super::pick::Pick;
use crate::connection::Channel;
use crate::error::RpcError;

/// Where one connection of a [`Client`](crate::Client) stands.
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
/// From each of them an address that leaves the registry, or a client that is closed, leads to
/// `Closed`, by way of `Draining` while calls are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// There is no connection. The next call makes one.
    Idle,
    /// An attempt is under way. Calls wait for it.
    Connecting,
    /// The provider has sent its hello. Calls are sent.
    Ready,
    /// There is a connection that takes no new calls and has not ended, since calls are under way
    /// there; the provider is about to close, or the address is no longer in use. Unless it is the
    /// latter, the next call makes a new connection at once, and the state is then that one's.
    Draining,
    /// The last attempt failed, or the last connections were lost at once. Calls fail at once, unless
    /// they [wait](crate::Client::with_wait_for_ready). Once the pause is over the next call
    /// connects; until there is one the state stays.
    BackingOff,
    /// The address has left the registry, or the client was closed. No connection is made again.
    Closed,
}

/// One connection of a [`Client`](crate::Client), as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The address.
    pub uri: String,
    /// Where it stands.
    pub state: ConnectionState,
    /// How many connections were made after the first one.
    pub reconnects: u64,
    /// Why the last attempt failed or the last connection took no more calls, whichever was later;
    /// also while there is a new one. `None` until then.
    pub last_error: Option<RpcError>,
}

/// A link, as far as the list of all links needs it.
pub(super) trait KnownLink: Send + Sync {
    /// The client is closed: no new calls, no more attempts, and the provider is told.
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
