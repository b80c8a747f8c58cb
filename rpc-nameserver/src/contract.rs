//! [`NameService`]: the contract of a name server, and its types.

use std::time::Duration;

use bytes::Bytes;
use rpc_registry::Instance;
use rpc_runtime::protocol::{self, DecodeLimits};
use rpc_runtime::{Blob, RpcError, Streaming, rpc_service};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The metadata in which a token is sent: `Bearer TOKEN`.
pub(crate) const AUTHORIZATION: &str = "authorization";
/// The heartbeat interval of both ends. A connection that was cut without notice is detected by it.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// The contract of a name server.
///
/// The process of a provider has one session at each server. Its registrations have a data version,
/// a number that changes with each change of them. The server stores the last version that it
/// received, so a renewal consists of that number.
#[rpc_service(name = "rpc.NameService", version = "1.0.0")]
pub trait NameService {
    /// Begins a session, or continues it on another connection. It lasts as long as the returned
    /// stream, which has no items: when either end drops the stream, or the connection ends, the
    /// registrations of the session are removed. The server ends the stream when the session was
    /// not renewed for `expiry_ms` milliseconds, or continues on another connection.
    ///
    /// Earlier registrations of the session stay listed until the next [`report`](Self::report)
    /// with a version. All registrations must have been sent by then.
    async fn attend(&self, session: u64, expiry_ms: u64) -> Result<Streaming<()>, NameError>;

    /// Renews a session. Returns whether the server has this version of the data; otherwise the
    /// provider must [`attend`](Self::attend) again and send all registrations.
    #[rpc(idempotent)]
    async fn renew(&self, session: u64, version: u64) -> rpc_runtime::Result<bool>;

    /// Sends changes, [packed](pack) as a `Vec<Change>`, and renews the session. `version` is the
    /// version of the data after them, or 0 if more changes follow. Returns the refused changes;
    /// all others were made.
    async fn report(
        &self,
        session: u64,
        version: u64,
        changes: Blob,
    ) -> Result<Vec<Refusal>, NameError>;

    /// The instances of a service.
    #[rpc(idempotent)]
    async fn lookup(&self, service: String) -> Result<Listing, NameError>;

    /// The instances of a service, now and after each change. Changes in quick succession are sent
    /// together.
    async fn follow(&self, service: String) -> Result<Streaming<Listing>, NameError>;

    /// The names of all services with an instance, sorted.
    #[rpc(idempotent)]
    async fn services(&self) -> Result<Vec<String>, NameError>;

    /// Removes a registration, until its owner registers it again. Returns whether it existed.
    ///
    /// Allowed with the secret of the registration, for the authenticated identity that registered
    /// it, and for identities with the right to remove. Otherwise the error is
    /// [`NameError::Denied`].
    async fn remove(
        &self,
        service: String,
        id: String,
        #[rpc(default)] secret: Option<Secret>,
    ) -> Result<bool, NameError>;
}

/// A change of the registrations of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Adds or replaces a registration.
    Register {
        /// The instance.
        instance: Instance,
        /// Whether the id must be free. Otherwise the registration of another session is replaced
        /// if its epoch is older and it has the same secret.
        new: bool,
        /// Chosen by the provider for this registration. Without one, as from providers of earlier
        /// versions, no other session can replace it, except for the same authenticated identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret>,
    },
    /// Removes a registration as an orderly departure. Nothing happens unless it belongs to this
    /// session and has this epoch.
    Unregister {
        /// The name of the service.
        service: String,
        /// The id of the instance.
        id: String,
        /// The epoch of the registration.
        epoch: u64,
    },
}

/// Why a [`Change`] was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The index of the change in the report.
    pub index: u32,
    /// The reason.
    pub why: Why,
    /// The reason as a message.
    pub message: String,
}

/// The reason of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The id belongs to another session, or has a newer epoch.
    Taken,
    /// The instance is invalid ([`Instance::validate`]), or its epoch is too far in the future.
    Invalid,
    /// The server is full, or the client has reached its quota.
    Full,
    /// The client may not register this service. Providers that send no secret are of an earlier
    /// version and do not know this reason; they get [`Invalid`](Self::Invalid).
    Denied,
}

/// The instances of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The instances, ordered by id, [packed](pack) as a `Vec<Instance>`.
    pub instances: Blob,
    /// The ids of instances that have left in order since the last list of the stream.
    #[serde(default)]
    pub departed: Vec<String>,
}

/// The error of a name server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NameError {
    /// The server is in its grace period and cannot answer that a service has no providers. Ask
    /// another server.
    Starting {
        /// The remaining milliseconds of the grace period, at most.
        left_ms: u64,
    },
    /// The session does not exist.
    NoSession,
    /// The request is invalid.
    Invalid(String),
    /// The server is full, or the client has reached its quota.
    Full(String),
    /// The client has no right to do this, or is not authenticated.
    Denied(String),
    /// The call failed.
    Rpc(RpcError),
}

impl From<RpcError> for NameError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

/// Encodes a body of the contract as MessagePack with field names. Bodies are separate from the
/// arguments, so that the session is known and renewed before the body is decoded, and so that a
/// list is encoded once for all consumers.
///
/// # Errors
///
/// The value cannot be encoded.
pub fn pack<T: Serialize + ?Sized>(value: &T) -> Result<Blob, NameError> {
    let bytes = rmp_serde::to_vec_named(value);
    let bytes = bytes.map_err(|error| NameError::Invalid(format!("cannot be packed: {error}")))?;
    Ok(Blob::from(Bytes::from(bytes)))
}

/// Maximum memory of a decoded body per byte. An instance with a short name and one metadata entry
/// takes about as much.
const MEMORY_PER_BYTE: usize = 8;
/// Memory that every body may take, whatever its length.
const MIN_MEMORY: usize = 8 << 20;

/// Decodes a [packed](pack) body.
///
/// # Errors
///
/// The body is not such a value, has more than 256 levels of nesting, or would take more memory
/// than eight times its length and more than 8 MiB.
pub fn unpack<T: DeserializeOwned>(packed: &Blob) -> Result<T, NameError> {
    let memory = packed.len().saturating_mul(MEMORY_PER_BYTE).max(MIN_MEMORY);
    protocol::decode(packed, DecodeLimits::new().memory(memory))
        .map_err(|error| NameError::Invalid(format!("a body does not decode: {}", error.message())))
}

/// The length that a MessagePack array claims to have.
pub(crate) fn array_len(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [marker @ 0x90..=0x9f, ..] => Some(u64::from(marker & 0x0f)),
        [0xdc, a, b, ..] => Some(u64::from(u16::from_be_bytes([a, b]))),
        [0xdd, a, b, c, d, ..] => Some(u64::from(u32::from_be_bytes([a, b, c, d]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_body_that_is_nested_deep_is_refused_and_ends_no_process() {
        #[derive(Debug, Deserialize)]
        struct Tree(#[expect(dead_code, reason = "only its nesting matters")] Vec<Tree>);
        let nested = [0x91; 1 << 10];
        // In a field that no change has, which is skipped.
        let mut change = b"\x91\x81\xaaUnregister\x81\xa3new".to_vec();
        change.extend(nested);
        // A stack of half the size that threads have, in a build without optimizations.
        let unpacked = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            assert!(unpack::<Vec<Change>>(&Blob::from(change)).is_err());
            assert!(unpack::<Tree>(&Blob::from(nested.to_vec())).is_err());
        });
        unpacked.unwrap().join().unwrap();
    }

    #[test]
    fn a_list_of_many_small_instances_is_read() {
        let instance = |n| {
            let uri = "tcp://10.0.0.1:1";
            Instance::new("svc", uri).with_id(format!("{n}")).with_metadata("zone", "a")
        };
        let list: Vec<Instance> = (0..50_000).map(instance).collect();
        let packed = pack(&list).unwrap();
        assert!(unpack::<Vec<Instance>>(&packed).unwrap() == list);
    }

    #[test]
    fn a_body_that_is_cut_or_claims_too_much_is_refused() {
        let change = Change::Unregister { service: "svc".into(), id: "a".into(), epoch: 1 };
        let whole = pack(&vec![change.clone()]).unwrap();
        assert_eq!(unpack::<Vec<Change>>(&whole).unwrap(), [change]);
        for end in 0..whole.len() {
            assert!(unpack::<Vec<Change>>(&Blob::from(whole.slice(..end))).is_err());
        }
        // An array of 2^32 - 1 elements, of which none follows.
        let lying = Blob::from(vec![0xdd, 0xff, 0xff, 0xff, 0xff]);
        assert!(unpack::<Vec<Change>>(&lying).is_err());
    }
}
