//! [`Connections`]: the connections of a server, and their limits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lifetime::LifetimeGuard;
use crate::budget::{Address, Owner};
use crate::connection::Channel;
use crate::error::RpcError;
use crate::observe::ConnectionRefusal;
use crate::status::Status;
use crate::uri::host;

/// Maximum number of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pub(super) total: usize,
    /// Those of one address.
    pub(super) per_address: Option<usize>,
}

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Places that are taken.
    taken: usize,
    /// The same by address, if there is a limit for that.
    by_address: HashMap<IpAddr, usize>,
    open: HashMap<u64, OpenChannel>,
    phase: Phase,
}

struct OpenChannel(Arc<Channel>);

impl std::fmt::Debug for OpenChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.peer())
    }
}

/// What happens to connections that are being accepted.
#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Serving,
    Draining,
    Closed(RpcError),
}

/// What was cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CutOff {
    pub(super) connections: usize,
    /// Running requests whose callers still wait.
    pub(super) requests: usize,
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> Vec<Arc<Channel>> {
        self.lock().open.values().map(|open| Arc::clone(&open.0)).collect()
    }

    /// A permit for a connection from `peer`, a URI.
    ///
    /// # Errors
    /// A limit is reached, or the server is ending. The message is for the peer.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: &str,
    ) -> Result<ConnectionPermit, (ConnectionRefusal, RpcError)> {
        let ConnectionLimits { total, per_address } = self.limits;
        let mut state = self.lock();
        match &state.phase {
            Phase::Serving => {}
            // Refused without a hello, which would look like an available provider.
            Phase::Draining => {
                let why = "the provider is shutting down and takes no new connections";
                return Err((ConnectionRefusal::Draining, RpcError::unavailable(why)));
            }
            Phase::Closed(cause) => return Err((ConnectionRefusal::Draining, cause.clone())),
        }
        if state.taken >= total {
            let why = format!(
                "the provider has {total} connections and takes no more (`max_connections`)"
            );
            return Err((ConnectionRefusal::ServerFull, RpcError::new(Status::Overloaded, why)));
        }
        let address = per_address.and_then(|limit| Some((limit, host(peer)?)));
        if let Some((limit, address)) = address {
            let taken = state.by_address.entry(address).or_default();
            if *taken >= limit {
                let why = format!(
                    "the provider has {limit} connections of {address} and takes no more \
                     (`max_connections_per_address`)"
                );
                return Err((
                    ConnectionRefusal::AddressFull,
                    RpcError::new(Status::Overloaded, why),
                ));
            }
            *taken += 1;
        }
        state.taken += 1;
        let number = state.next;
        state.next += 1;
        let address = address.map(|(_, address)| address);
        let owner = Owner { connection: number, address: Address::of(peer) };
        Ok(ConnectionPermit {
            connections: Arc::clone(self),
            owner,
            counted: address,
            lifetime: None,
        })
    }

    /// Sends a goaway to all clients, present and future.
    pub(super) fn drain(&self) {
        self.lock().phase = Phase::Draining;
        self.open().iter().for_each(|channel| channel.goaway());
    }

    /// Closes all connections, present and future. Returns what was cut off.
    pub(super) fn close_all(&self, why: &str) -> CutOff {
        let cause = RpcError::unavailable(why);
        self.lock().phase = Phase::Closed(cause.clone());
        let open = self.open();
        let requests = open.iter().map(|channel| channel.requests_in_work()).sum();
        open.iter().for_each(|channel| channel.abort(cause.clone()));
        CutOff { connections: open.len(), requests }
    }
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    owner: Owner,
    /// The address that it counts for.
    counted: Option<IpAddr>,
    /// Ends with the connection.
    lifetime: Option<LifetimeGuard>,
}

impl ConnectionPermit {
    /// The connection's number, unique in the server, and its address.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// The channel is open. If the server is draining or has closed meanwhile, so is the channel.
    pub(super) fn take(&mut self, channel: &Arc<Channel>, lifetime: Option<LifetimeGuard>) {
        self.lifetime = lifetime;
        let mut state = self.connections.lock();
        state.open.insert(self.owner.connection, OpenChannel(Arc::clone(channel)));
        let phase = state.phase.clone();
        drop(state);
        match phase {
            Phase::Serving => {}
            Phase::Draining => channel.goaway(),
            Phase::Closed(cause) => channel.close(cause),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.open.remove(&self.owner.connection);
        state.taken = state.taken.saturating_sub(1);
        if let Some(address) = self.counted
            && let Some(taken) = state.by_address.get_mut(&address)
        {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                state.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: Option<usize>) -> Arc<Connections> {
        Arc::new(Connections::new(ConnectionLimits { total, per_address }))
    }

    #[test]
    fn a_permit_is_free_again_when_its_connection_has_ended() {
        let connections = connections(2, None);
        let first = connections.admit("tcp://127.0.0.1:1").unwrap();
        let _second = connections.admit("memory://x#client").unwrap();
        let (reason, refused) = connections.admit("tcp://127.0.0.1:2").unwrap_err();
        assert_eq!(reason, ConnectionRefusal::ServerFull);
        assert!(
            refused.is_overloaded() && refused.message().contains("2 connections"),
            "{refused}"
        );
        drop(first);
        connections.admit("tcp://127.0.0.1:2").unwrap();
    }

    #[test]
    fn one_address_does_not_take_the_permits_of_others() {
        let connections = connections(100, Some(2));
        let permits: Vec<_> =
            (1..=2).map(|port| connections.admit(&format!("tcp://10.0.0.1:{port}"))).collect();
        let (reason, refused) = connections.admit("tcp://10.0.0.1:3").unwrap_err();
        assert_eq!(reason, ConnectionRefusal::AddressFull);
        assert!(refused.message().contains("2 connections of 10.0.0.1"), "{refused}");
        assert!(connections.admit("tcp://[::ffff:10.0.0.1]:3").is_err(), "the same in IPv6");
        let _other = connections.admit("tcp://10.0.0.2:1").unwrap();
        drop(permits);
        connections.admit("tcp://10.0.0.1:3").unwrap();
        assert_eq!(connections.lock().by_address.len(), 1, "addresses are forgotten");
    }

    #[test]
    fn an_ipv6_host_counts_once_whatever_it_connects_from() {
        let connections = connections(100, Some(1));
        let _permit = connections.admit("tcp://[2001:db8::1]:1").unwrap();
        assert!(connections.admit("tcp://[2001:db8::2]:1").is_err());
        let _other = connections.admit("tcp://[2001:db8:0:1::1]:1").unwrap();
    }
}
