//! [`Addresses`]: the addresses of a service in the order of a client, and their endpoints.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::turn::{CHANGED, Turn, UNCHANGED};
use crate::client::{Endpoint, EndpointSettings};
use crate::error::RpcError;
use crate::uri::Uri;

/// The addresses of a service that a client may use. The first of them have endpoints.
///
/// Their order is that of a rendezvous hash: a hash of the address with the client's random
/// identity as the key. It does not depend on which other addresses there are, so an address that
/// comes or goes moves no other one, and each client has another order.
pub(super) struct Addresses {
    identity: RandomState,
    settings: Arc<EndpointSettings>,
    ranked: BTreeMap<Rank, Address>,
    /// How many have an endpoint: the first ones, and others that are not retired yet.
    in_use: usize,
    /// How many of the first were to have one.
    wanted: usize,
    /// Addresses were added or removed since endpoints were last assigned.
    is_changed: bool,
    /// One of them had an endpoint.
    has_lost_endpoint: bool,
}

/// The place of an address in the order of a client.
#[derive(PartialEq, Eq)]
pub(super) struct Rank {
    hash: u64,
    uri: Uri,
}

/// What is known of an address.
#[derive(Default)]
struct Address {
    /// How many instances are registered there.
    registrations: usize,
    endpoint: Option<Arc<Endpoint>>,
}

/// What is known of the first addresses.
#[derive(Clone, Copy, Default)]
pub(super) struct Reachability {
    /// How many have endpoints.
    pub(super) in_use: usize,
    /// How many of these cannot be connected to.
    pub(super) unreachable: usize,
}

/// Which endpoints are in use, and which no longer are.
pub(super) struct Assigned {
    /// In the order of the client.
    pub(super) endpoints: Arc<[Arc<Endpoint>]>,
    pub(super) retired: Vec<Arc<Endpoint>>,
}

impl Addresses {
    pub(super) fn new(settings: Arc<EndpointSettings>) -> Self {
        Self {
            identity: RandomState::new(),
            settings,
            ranked: BTreeMap::new(),
            in_use: 0,
            wanted: 0,
            is_changed: false,
            has_lost_endpoint: false,
        }
    }

    pub(super) fn settings(&self) -> &Arc<EndpointSettings> {
        &self.settings
    }

    /// The number of addresses.
    pub(super) fn len(&self) -> usize {
        self.ranked.len()
    }

    /// # Errors
    /// The text is no valid address.
    pub(super) fn rank(&self, uri: &str) -> Result<Rank, RpcError> {
        Ok(Rank { hash: self.identity.hash_one(uri), uri: Uri::parse(uri)? })
    }

    /// Whether the address has lost all of its registrations, and is not [removed](Self::remove) yet.
    pub(super) fn is_vacant(&self, rank: &Rank) -> bool {
        self.ranked.get(rank).is_some_and(|address| address.registrations == 0)
    }

    /// Adds a registration. Returns the endpoint of the address, if it has one.
    pub(super) fn register(&mut self, rank: Rank) -> Option<Arc<Endpoint>> {
        let known = self.ranked.len();
        let address = self.ranked.entry(rank).or_default();
        address.registrations = address.registrations.saturating_add(1);
        let endpoint = address.endpoint.clone();
        self.is_changed |= self.ranked.len() > known;
        endpoint
    }

    /// Takes a registration away. The address stays until it is [removed](Self::remove).
    pub(super) fn unregister(&mut self, rank: &Rank) {
        if let Some(address) = self.ranked.get_mut(rank) {
            address.registrations = address.registrations.saturating_sub(1);
        }
    }

    /// Removes the address if it is vacant. Returns its endpoint, if it had one.
    pub(super) fn remove(&mut self, rank: &Rank) -> Option<Arc<Endpoint>> {
        if !self.is_vacant(rank) {
            return None;
        }
        self.is_changed = true;
        let endpoint = self.ranked.remove(rank)?.endpoint?;
        self.in_use = self.in_use.saturating_sub(1);
        self.has_lost_endpoint = true;
        Some(endpoint)
    }

    /// How many addresses have endpoints, and how many of these cannot be connected to.
    pub(super) fn reachability(&self) -> Reachability {
        let first = self.ranked.values().take(self.wanted);
        let (mut in_use, mut unreachable) = (0_usize, 0_usize);
        for endpoint in first.filter_map(|address| address.endpoint.as_ref()) {
            in_use = in_use.saturating_add(1);
            unreachable = unreachable.saturating_add(usize::from(endpoint.is_unreachable()));
        }
        Reachability { in_use, unreachable }
    }

    /// Gives the first `wanted` addresses endpoints, and takes them from the others. Returns `None`
    /// if the endpoints in use are the same as before.
    ///
    /// While fewer than `connected` of the first are connected, as many others keep their endpoints:
    /// what works is not given up before what replaces it works.
    pub(super) async fn assign(
        &mut self,
        wanted: usize,
        connected: usize,
        turn: &mut Turn,
    ) -> Option<Assigned> {
        let wanted = wanted.min(self.ranked.len());
        let is_as_before = wanted == self.wanted && wanted == self.in_use;
        if !std::mem::take(&mut self.is_changed) && is_as_before {
            return None;
        }
        self.wanted = wanted;
        let mut has_changed = std::mem::take(&mut self.has_lost_endpoint);
        let (mut endpoints, mut retired) = (Vec::with_capacity(wanted), Vec::new());
        let mut unseen = self.in_use;
        let mut missing = connected;
        for (rank, address) in &mut self.ranked {
            let is_wanted = endpoints.len() < wanted;
            if !is_wanted && unseen == 0 {
                break;
            }
            let had_endpoint = address.endpoint.is_some();
            turn.work(if had_endpoint { UNCHANGED } else { CHANGED }).await;
            unseen = unseen.saturating_sub(usize::from(had_endpoint));
            if is_wanted {
                has_changed |= !had_endpoint;
                let new = || Arc::new(Endpoint::new(rank.uri.clone(), &self.settings));
                let endpoint = address.endpoint.get_or_insert_with(new);
                if missing > 0 && endpoint.is_connected() {
                    missing -= 1;
                }
                endpoints.push(Arc::clone(endpoint));
            } else if let Some(endpoint) = &address.endpoint {
                if missing > 0 && !endpoint.is_unreachable() {
                    missing -= 1;
                    endpoints.push(Arc::clone(endpoint));
                } else {
                    retired.extend(address.endpoint.take());
                }
            }
        }
        self.in_use = endpoints.len();
        has_changed |= !retired.is_empty();
        has_changed.then(|| Assigned { endpoints: endpoints.into(), retired })
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_uri = || self.uri.as_str().cmp(other.uri.as_str());
        self.hash.cmp(&other.hash).then_with(by_uri)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
