//! What providers and consumers say to a name server: [`NameService`] and its types.

use bytes::Bytes;
use rpc_registry::Instance;
use rpc_runtime::protocol::{self, DecodeLimits};
use rpc_runtime::{Blob, RpcError, Streaming, rpc_service};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The contract of a name server.
///
/// A provider's process has one session at each server. What it announces has a data version, a
/// number that it chooses anew with each change; the server remembers the one that it was given
/// last, so that a renewal is that number and no more.
#[rpc_service(name = "rpc.NameService", version = "1.0.0")]
pub trait NameService {
    /// Begins a session, or takes it over from an earlier connection. It lasts as long as the stream
    /// that is returned, which has no items: when either end drops it, or the connection ends, all
    /// that belongs to the session is removed at once. The server ends the stream when the session
    /// was not heard of for `expiry_ms` milliseconds, or is taken over by another connection.
    ///
    /// What the session had before stays listed until the next [`report`](Self::report) with a
    /// version, which must have told all of it.
    async fn attend(&self, session: u64, expiry_ms: u64) -> Result<Streaming<()>, NameError>;

    /// Renews a session. Says whether the server has this version of the data; otherwise it wants
    /// all of it, by another [`attend`](Self::attend).
    #[rpc(idempotent)]
    async fn renew(&self, session: u64, version: u64) -> rpc_runtime::Result<bool>;

    /// Tells changes, [packed](pack) as a `Vec<Change>`, and renews the session. `version` is that of
    /// the data after them; 0 if more are to follow before it is whole. Returns what was refused;
    /// all else is done.
    async fn report(
        &self,
        session: u64,
        version: u64,
        changes: Blob,
    ) -> Result<Vec<Refusal>, NameError>;

    /// The instances of a service.
    #[rpc(idempotent)]
    async fn lookup(&self, service: String) -> Result<Listing, NameError>;

    /// The instances of a service, now and after each change. Quick changes come as one.
    async fn follow(&self, service: String) -> Result<Streaming<Listing>, NameError>;

    /// The names of all services that have an instance, sorted.
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

/// One change of what a session announces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// It is there from now on.
    Register {
        /// What is registered.
        instance: Instance,
        /// Whether nobody may have the id. Otherwise one of another session is replaced if its epoch
        /// is older, and it was registered with the same secret.
        new: bool,
        /// Chosen by the provider for this registration. Without one, as from providers of earlier
        /// versions, no other session can replace it, except for the same authenticated identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret>,
    },
    /// It leaves in order. Nothing happens unless it belongs to this session and has this epoch.
    Unregister {
        /// The name of the service.
        service: String,
        /// The id of the instance.
        id: String,
        /// The epoch that it was registered with.
        epoch: u64,
    },
}

/// Why a [`Change`] was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which of the changes.
    pub index: u32,
    /// What is wrong with it.
    pub why: Why,
    /// The same for people.
    pub message: String,
}

/// The reason of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The id belongs to another session, or has a newer epoch.
    Taken,
    /// It breaks the rules of [`Instance::validate`], or its epoch is too far in the future.
    Invalid,
    /// The server has no room for more, or the client has reached its quota.
    Full,
    /// The client may not register this service. Providers that send no secret are of an earlier
    /// version and do not know this reason; they get [`Invalid`](Self::Invalid).
    Denied,
}

/// The instances of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// All of them, ordered by id, [packed](pack) as a `Vec<Instance>`.
    pub instances: Blob,
    /// The ids of those that have left in order since the last list of the stream.
    #[serde(default)]
    pub departed: Vec<String>,
}

/// Why a name server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NameError {
    /// It has not run for long enough to say that nobody is there. Ask another one.
    Starting {
        /// For so many milliseconds from now, at most.
        left_ms: u64,
    },
    /// It does not know the session.
    NoSession,
    /// What was said breaks a rule.
    Invalid(String),
    /// It has no room for more, or the client has reached its quota.
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

/// Writes a value as MessagePack with field names, as the bodies of the contract are written. They
/// are apart from the arguments so that the session of a message is known, and renewed, before its
/// body is decoded, and so that one list is written once for all who follow it.
///
/// # Errors
///
/// The value can't be written.
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

/// Reads what [`pack`] has written.
///
/// # Errors
///
/// It is not such a value, has more than 256 levels of nesting, or would take more memory than
/// eight times its length and more than 8 MiB.
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
