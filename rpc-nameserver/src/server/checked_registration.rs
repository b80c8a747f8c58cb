//! [`CheckedRegistration`]: a requested registration, checked and encoded before the table is
//! locked.

use std::sync::Arc;

use bytes::Bytes;
use rpc_registry::{Instance, Printable, unix_ms};

use super::identity::{Hash, Identity, hash};
use crate::contract::{Why, pack};
use crate::secret::Secret;

/// Estimated memory of an entry beside its text, in maps and sets.
pub(super) const ENTRY_BYTES: usize = 512;
/// Epochs begin with the time in milliseconds. This is the maximum distance ahead of the server's
/// clock, a day: an epoch of the far future would block the id for its owner.
const MAX_AHEAD: u64 = 86_400_000;

/// A valid registration.
pub(super) struct CheckedRegistration {
    pub(super) service: String,
    pub(super) id: Arc<str>,
    pub(super) epoch: u64,
    /// The encoded instance, as it is listed.
    pub(super) packed: Bytes,
    /// Whether the id must be free.
    pub(super) new: bool,
    pub(super) secret: Option<Hash>,
    /// Estimated memory.
    pub(super) bytes: usize,
}

impl CheckedRegistration {
    pub(super) fn new(
        instance: &Instance,
        new: bool,
        secret: Option<&Secret>,
    ) -> Result<Self, (Why, String)> {
        instance.validate().map_err(|error| (Why::Invalid, error.to_string()))?;
        let latest = unix_ms().saturating_add(MAX_AHEAD);
        if instance.epoch() > latest {
            let message = format!(
                "the epoch {} is later than {latest}, a day ahead of the name server's clock in \
                 milliseconds; compare the clocks",
                instance.epoch()
            );
            return Err((Why::Invalid, message));
        }
        let packed = pack(instance).map_err(|error| (Why::Invalid, format!("{error:?}")))?;
        // Once as it is, and once within the list.
        let texts = [
            packed.len().saturating_mul(2),
            instance.service().len().saturating_mul(3),
            instance.id().len().saturating_mul(3),
        ];
        Ok(Self {
            service: instance.service().to_owned(),
            id: instance.id().into(),
            epoch: instance.epoch(),
            bytes: texts.into_iter().fold(ENTRY_BYTES, usize::saturating_add),
            packed: Bytes::copy_from_slice(&packed),
            new,
            secret: secret.map(|secret| hash(secret.bytes())),
        })
    }

    /// Whether this client may register the service.
    pub(super) fn check(&self, by: &Identity) -> Result<(), (Why, String)> {
        if by.rights.may_register(&self.service) {
            return Ok(());
        }
        let who = Printable(by.name.as_deref().unwrap_or("a client without an identity"));
        // Earlier versions, which send no secret, can't read the other reason.
        let why = if self.secret.is_some() { Why::Denied } else { Why::Invalid };
        Err((why, format!("{who} may not register {:?}", self.service)))
    }
}
