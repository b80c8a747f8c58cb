//! [`StoredRegistration`]: a registration in the table.

use std::sync::Arc;

use bytes::Bytes;

use super::accounts::Charge;
use super::identity::{Hash, Identity};

/// Service and id.
pub(super) type Key = (String, Arc<str>);

/// A registration.
#[derive(Clone)]
pub(super) struct StoredRegistration {
    pub(super) id: Arc<str>,
    pub(super) epoch: u64,
    /// Encoded, as it is listed.
    pub(super) packed: Bytes,
    /// The number of the change that added it to its service.
    pub(super) change: u64,
    pub(super) session: u64,
    pub(super) attendance: u64,
    pub(super) secret: Option<Hash>,
    /// The client that owns it and is charged for it.
    pub(super) identity: Arc<Identity>,
    pub(super) bytes: usize,
}

impl StoredRegistration {
    /// The charged size.
    pub(super) fn item<'s>(&self, service: &'s str) -> Charge<'s> {
        Charge::Instance(service, self.packed.len())
    }

    /// Whether this client may replace it by a newer one: the client has the secret, or there is no
    /// secret and the client is the authenticated owner.
    pub(super) fn belongs_to(&self, by: &Identity, secret: Option<Hash>) -> bool {
        match self.secret {
            // The time of comparing hashes reveals nothing.
            Some(own) => secret == Some(own),
            None => by.is_proved_same(&self.identity),
        }
    }

    /// Whether this client may remove it: as above, or as the owner, or by the right to remove.
    pub(super) fn is_removable(&self, service: &str, by: &Identity, secret: Option<Hash>) -> bool {
        self.belongs_to(by, secret)
            || by.is_proved_same(&self.identity)
            || by.rights.may_remove(service)
    }

    #[cfg(test)]
    pub(super) fn for_test(id: &str) -> Self {
        use rpc_registry::Instance;

        use super::identity::Caller;
        use super::quota::Quota;

        let instance = Instance::new("svc", "tcp://127.0.0.1:1").with_id(id);
        let packed = crate::contract::pack(&instance).unwrap();
        let caller = Caller::default();
        Self {
            id: id.into(),
            epoch: 0,
            packed: Bytes::copy_from_slice(&packed),
            change: 0,
            session: 0,
            attendance: 0,
            secret: None,
            identity: Arc::new(Identity::new(&caller, None, Arc::default(), Quota::default())),
            bytes: 0,
        }
    }
}
