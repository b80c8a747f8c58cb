//! [`Quota`] and [`Accounts`]: limits of clients and their current use.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::identity::Identity;

/// Limits of one client of a name server.
///
/// A client is an authenticated identity. Without authentication it is an IP address (IPv6: one
/// /64; all addresses of this machine together), or a user of the machine at a `unix:` socket. A
/// policy file can give an identity another quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// Maximum registrations. Default 20,000.
    pub instances: usize,
    /// Maximum services with a registration of the client. Default 2,000.
    pub services: usize,
    /// Maximum sessions; each provider process has one. Default 4,096.
    pub sessions: usize,
    /// Maximum services followed, counted per connection. Default 32,768.
    pub follows: usize,
    /// Maximum bytes of registrations, sessions and follows, as counted for
    /// [`max_bytes`](super::NameServerBuilder::max_bytes). Default 64 MiB, a quarter of the default
    /// of `max_bytes`.
    pub bytes: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            instances: 20_000,
            services: 2_000,
            sessions: 4_096,
            follows: 32_768,
            bytes: 64 << 20,
        }
    }
}

/// Maximum sessions of one connection. A process needs no more, and one connection cannot use up
/// its client's quota.
const SESSIONS_OF_CONNECTION: usize = 16;
/// Share of one connection in its client's quota: three quarters.
const SHARE_OF_CONNECTION: (usize, usize) = (3, 4);

impl Quota {
    fn of_connection(self) -> Self {
        let (part, whole) = SHARE_OF_CONNECTION;
        let share = |all: usize| all.div_ceil(whole).saturating_mul(part);
        Self {
            instances: share(self.instances),
            services: self.services,
            sessions: self.sessions.min(SESSIONS_OF_CONNECTION),
            follows: share(self.follows),
            bytes: share(self.bytes),
        }
    }
}

/// The quota in a policy file.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaOverrides {
    instances: Option<usize>,
    services: Option<usize>,
    sessions: Option<usize>,
    follows: Option<usize>,
    bytes: Option<usize>,
}

impl QuotaOverrides {
    pub(super) fn over(self, default: Quota) -> Quota {
        Quota {
            instances: self.instances.unwrap_or(default.instances),
            services: self.services.unwrap_or(default.services),
            sessions: self.sessions.unwrap_or(default.sessions),
            follows: self.follows.unwrap_or(default.follows),
            bytes: self.bytes.unwrap_or(default.bytes),
        }
    }
}

/// Maximum bytes of the list of one service, so that it can be sent.
pub(super) const LIST_BYTES: usize = 15 << 20;
/// Maximum share of one client in that list.
const LIST_SHARE: usize = LIST_BYTES / 4;

/// A charged item.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'s> {
    Session,
    Follow,
    /// A registration: its service, and its bytes in the list.
    Instance(&'s str, usize),
}

/// The use of each client and each connection.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Arc<str>, Account>);

#[derive(Debug, Default)]
struct Account {
    instances: usize,
    sessions: usize,
    follows: usize,
    bytes: usize,
    services: HashMap<String, Share>,
}

#[derive(Debug, Default)]
struct Share {
    instances: usize,
    listed: usize,
}

impl Accounts {
    /// Charges the client and its connection.
    ///
    /// # Errors
    ///
    /// Names the quota that is reached; nothing is charged.
    pub(super) fn charge(
        &mut self,
        identity: &Identity,
        item: Item<'_>,
        bytes: usize,
    ) -> Result<(), String> {
        self.charge_one(&identity.owner, &identity.quota, item, bytes)?;
        let Some(connection) = &identity.connection else { return Ok(()) };
        let quota = identity.quota.of_connection();
        self.charge_one(connection, &quota, item, bytes)
            .inspect_err(|_| self.refund_one(&identity.owner, item, bytes))
    }

    /// Reverts a [`charge`](Self::charge).
    pub(super) fn refund(&mut self, identity: &Identity, item: Item<'_>, bytes: usize) {
        self.refund_one(&identity.owner, item, bytes);
        if let Some(connection) = &identity.connection {
            self.refund_one(connection, item, bytes);
        }
    }

    fn charge_one(
        &mut self,
        owner: &Arc<str>,
        quota: &Quota,
        item: Item<'_>,
        bytes: usize,
    ) -> Result<(), String> {
        let account = self.0.entry(Arc::clone(owner)).or_default();
        let charged = account.charge(owner, quota, item, bytes);
        if account.is_empty() {
            self.0.remove(owner);
        }
        charged
    }

    fn refund_one(&mut self, owner: &Arc<str>, item: Item<'_>, bytes: usize) {
        let Some(account) = self.0.get_mut(owner) else { return };
        account.refund(item, bytes);
        if account.is_empty() {
            self.0.remove(owner);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Account {
    fn charge(
        &mut self,
        owner: &str,
        quota: &Quota,
        item: Item<'_>,
        bytes: usize,
    ) -> Result<(), String> {
        let full = |what: &str, limit: usize| {
            Err(format!("{owner} has reached its quota of {limit} {what}"))
        };
        if self.bytes.saturating_add(bytes) > quota.bytes {
            return full("bytes", quota.bytes);
        }
        match item {
            Item::Session if self.sessions >= quota.sessions => {
                return full("sessions", quota.sessions);
            }
            Item::Session => self.sessions = self.sessions.saturating_add(1),
            Item::Follow if self.follows >= quota.follows => {
                return full("services that are followed", quota.follows);
            }
            Item::Follow => self.follows = self.follows.saturating_add(1),
            Item::Instance(service, listed) => {
                if self.instances >= quota.instances {
                    return full("instances", quota.instances);
                }
                let share = self.services.get(service);
                if share.is_none() && self.services.len() >= quota.services {
                    return full("services", quota.services);
                }
                let listed = share.map_or(0, |share| share.listed).saturating_add(listed);
                if listed > LIST_SHARE {
                    return full("bytes in the list of one service", LIST_SHARE);
                }
                self.instances = self.instances.saturating_add(1);
                let share = self.services.entry(service.to_owned()).or_default();
                share.instances = share.instances.saturating_add(1);
                share.listed = listed;
            }
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    fn refund(&mut self, item: Item<'_>, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        match item {
            Item::Session => self.sessions = self.sessions.saturating_sub(1),
            Item::Follow => self.follows = self.follows.saturating_sub(1),
            Item::Instance(service, listed) => {
                self.instances = self.instances.saturating_sub(1);
                let Some(share) = self.services.get_mut(service) else { return };
                share.instances = share.instances.saturating_sub(1);
                share.listed = share.listed.saturating_sub(listed);
                if share.instances == 0 {
                    self.services.remove(service);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.instances == 0 && self.sessions == 0 && self.follows == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Caller;
    use super::*;

    fn identity(peer: &str, quota: Quota) -> Identity {
        let caller = Caller { peer: peer.into(), ..Caller::default() };
        Identity::new(&caller, None, Arc::default(), quota)
    }

    fn quota() -> Quota {
        Quota { instances: 4, services: 2, sessions: 2, follows: 4, bytes: 100 }
    }

    #[test]
    fn each_quota_is_reached_and_there_is_room_again_afterwards() {
        let client = identity("memory:x", quota());
        let items: [(Item<'_>, usize, usize); 4] = [
            (Item::Session, 2, 1),
            (Item::Follow, 4, 1),
            (Item::Instance("a", 1), 4, 1),
            (Item::Instance("a", 1), 3, 30),
        ];
        for (item, fits, bytes) in items {
            let mut accounts = Accounts::default();
            for _ in 0..2 {
                for _ in 0..fits {
                    accounts.charge(&client, item, bytes).unwrap();
                }
                accounts.charge(&client, item, bytes).unwrap_err();
                (0..fits).for_each(|_| accounts.refund(&client, item, bytes));
                assert!(accounts.is_empty());
            }
        }
    }

    #[test]
    fn a_client_has_so_many_services_and_so_much_of_each_list() {
        let client = identity("memory:x", Quota { instances: 99, ..quota() });
        let mut accounts = Accounts::default();
        accounts.charge(&client, Item::Instance("a", LIST_SHARE), 1).unwrap();
        accounts.charge(&client, Item::Instance("a", 1), 1).unwrap_err();
        accounts.charge(&client, Item::Instance("b", 1), 1).unwrap();
        accounts.charge(&client, Item::Instance("c", 1), 1).unwrap_err();
        accounts.refund(&client, Item::Instance("b", 1), 1);
        accounts.charge(&client, Item::Instance("c", 1), 1).unwrap();
    }

    #[test]
    fn one_connection_leaves_room_for_the_others_of_its_client() {
        let one = identity("tcp://10.0.0.1:1", quota());
        let other = identity("tcp://10.0.0.1:2", quota());
        let stranger = identity("tcp://10.0.0.2:1", quota());
        let mut accounts = Accounts::default();
        let item = Item::Instance("a", 1);
        (0..3).for_each(|_| accounts.charge(&one, item, 1).unwrap());
        accounts.charge(&one, item, 1).unwrap_err();
        accounts.charge(&other, item, 1).unwrap();
        accounts.charge(&other, item, 1).unwrap_err();
        accounts.charge(&stranger, item, 1).unwrap();
    }
}
