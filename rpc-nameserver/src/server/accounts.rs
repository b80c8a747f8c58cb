//! [`Accounts`]: the current use of each client.

use std::collections::HashMap;
use std::sync::Arc;

use super::identity::Identity;
use super::quota::Quota;

/// Maximum bytes of the list of one service, so that it can be sent.
pub(super) const LIST_BYTES: usize = 15 << 20;
/// Maximum share of one client in that list.
const LIST_SHARE: usize = LIST_BYTES / 4;

/// An item that a client is charged for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Charge<'s> {
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
        item: Charge<'_>,
        bytes: usize,
    ) -> Result<(), String> {
        self.charge_one(&identity.owner, &identity.quota, item, bytes)?;
        let Some(connection) = &identity.connection else { return Ok(()) };
        let quota = identity.quota.of_connection();
        self.charge_one(connection, &quota, item, bytes)
            .inspect_err(|_| self.refund_one(&identity.owner, item, bytes))
    }

    /// Reverts a [`charge`](Self::charge).
    pub(super) fn refund(&mut self, identity: &Identity, item: Charge<'_>, bytes: usize) {
        self.refund_one(&identity.owner, item, bytes);
        if let Some(connection) = &identity.connection {
            self.refund_one(connection, item, bytes);
        }
    }

    fn charge_one(
        &mut self,
        owner: &Arc<str>,
        quota: &Quota,
        item: Charge<'_>,
        bytes: usize,
    ) -> Result<(), String> {
        let account = self.0.entry(Arc::clone(owner)).or_default();
        let charged = account.charge(owner, quota, item, bytes);
        if account.is_empty() {
            self.0.remove(owner);
        }
        charged
    }

    fn refund_one(&mut self, owner: &Arc<str>, item: Charge<'_>, bytes: usize) {
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
        item: Charge<'_>,
        bytes: usize,
    ) -> Result<(), String> {
        let full = |what: &str, limit: usize| {
            Err(format!("{owner} has reached its quota of {limit} {what}"))
        };
        if self.bytes.saturating_add(bytes) > quota.bytes {
            return full("bytes", quota.bytes);
        }
        match item {
            Charge::Session if self.sessions >= quota.sessions => {
                return full("sessions", quota.sessions);
            }
            Charge::Session => self.sessions = self.sessions.saturating_add(1),
            Charge::Follow if self.follows >= quota.follows => {
                return full("services that are followed", quota.follows);
            }
            Charge::Follow => self.follows = self.follows.saturating_add(1),
            Charge::Instance(service, listed) => {
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

    fn refund(&mut self, item: Charge<'_>, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        match item {
            Charge::Session => self.sessions = self.sessions.saturating_sub(1),
            Charge::Follow => self.follows = self.follows.saturating_sub(1),
            Charge::Instance(service, listed) => {
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
        let items: [(Charge<'_>, usize, usize); 4] = [
            (Charge::Session, 2, 1),
            (Charge::Follow, 4, 1),
            (Charge::Instance("a", 1), 4, 1),
            (Charge::Instance("a", 1), 3, 30),
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
        accounts.charge(&client, Charge::Instance("a", LIST_SHARE), 1).unwrap();
        accounts.charge(&client, Charge::Instance("a", 1), 1).unwrap_err();
        accounts.charge(&client, Charge::Instance("b", 1), 1).unwrap();
        accounts.charge(&client, Charge::Instance("c", 1), 1).unwrap_err();
        accounts.refund(&client, Charge::Instance("b", 1), 1);
        accounts.charge(&client, Charge::Instance("c", 1), 1).unwrap();
    }

    #[test]
    fn one_connection_leaves_room_for_the_others_of_its_client() {
        let one = identity("tcp://10.0.0.1:1", quota());
        let other = identity("tcp://10.0.0.1:2", quota());
        let stranger = identity("tcp://10.0.0.2:1", quota());
        let mut accounts = Accounts::default();
        let item = Charge::Instance("a", 1);
        (0..3).for_each(|_| accounts.charge(&one, item, 1).unwrap());
        accounts.charge(&one, item, 1).unwrap_err();
        accounts.charge(&other, item, 1).unwrap();
        accounts.charge(&other, item, 1).unwrap_err();
        accounts.charge(&stranger, item, 1).unwrap();
    }
}
