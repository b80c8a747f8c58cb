//! [`Secret`]: the proof of ownership of a registration.

use std::fmt;

use rpc_registry::RegistryError;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

const BYTES: usize = 16;

/// The secret of one registration, 128 random bits. Only its holder can replace or remove the
/// registration. A name server keeps a hash of it and never sends it.
///
/// A restarted provider has a new secret. Its id is free by then, since registrations are removed
/// with the connection that made them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; BYTES]);

impl Secret {
    /// Creates a secret from the operating system's source of randomness.
    ///
    /// # Errors
    ///
    /// `is_unavailable` if the system provides no randomness.
    pub fn random() -> Result<Self, RegistryError> {
        random_bytes().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret that is sent to this server. A malicious server cannot use it at another server.
    pub(crate) fn at(&self, server: &str) -> Self {
        let digest = Sha256::new().chain_update(self.0).chain_update(server).finalize();
        let mut bytes = [0; BYTES];
        bytes.iter_mut().zip(digest).for_each(|(byte, from)| *byte = from);
        Self(bytes)
    }
}

/// Unpredictable bytes.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], RegistryError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        RegistryError::unavailable(format!("the operating system provides no randomness: {error}"))
    })?;
    Ok(bytes)
}

/// Never shows the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BYTES} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Secret, E> {
        bytes.try_into().map(Secret).map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Secret, A::Error> {
        let mut bytes = [0; BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self))?;
        }
        Ok(Secret(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{pack, unpack};

    #[test]
    fn each_server_is_told_another_secret_and_always_the_same() {
        let secret = Secret::random().unwrap();
        assert_eq!(secret.at("tcp://a:1"), secret.at("tcp://a:1"));
        assert_ne!(secret.at("tcp://a:1"), secret.at("tcp://b:1"));
        assert_ne!(secret.at("tcp://a:1"), secret);
    }

    #[test]
    fn a_secret_travels_as_sixteen_bytes_and_is_never_shown() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one, other);
        let packed = pack(&one).unwrap();
        assert_eq!((packed[0], packed[1], packed.len()), (0xc4, 16, 18));
        assert_eq!(unpack::<Secret>(&packed).unwrap(), one);
        assert_eq!(unpack::<Secret>(&pack(&one.0).unwrap()).unwrap(), one);
        for wrong in [15, 17] {
            let mut body = vec![0xc4, wrong];
            body.resize(2 + usize::from(wrong), 7);
            assert!(unpack::<Secret>(&body.into()).is_err());
        }
        assert_eq!(format!("{one:?}"), "Secret(***)");
    }
}
