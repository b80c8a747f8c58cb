//! The first frame in each direction: what the sender is and can do.

use serde::{Deserialize, Serialize};

use super::payload;
use crate::descriptor::ServiceDescriptor;
use crate::error::RpcError;

/// Services and features of a peer that are remembered; they are of use in messages only.
const MAX_KEPT: usize = 1_024;

/// What an end of a connection tells the other at the start. Unknown fields are skipped and missing
/// ones take the defaults of a peer that can nothing, so that it can grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Hello {
    /// Largest payload that the sender reads, in bytes; 0: not said.
    pub max_payload: u32,
    /// How many requests of this connection the sender has in work at a time; 0: not said. Whoever
    /// sends no more than that is always read, its cancels and pings included.
    pub max_requests: u32,
    /// The sender's heartbeat interval in milliseconds; 0: none.
    pub heartbeat_ms: u32,
    /// Names of optional abilities.
    pub features: Vec<String>,
    /// The services that the sender provides.
    pub services: Vec<HelloService>,
}

/// A provided service in a [`Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HelloService {
    /// The service's name.
    pub name: String,
    /// `major.minor.patch`.
    pub version: String,
    /// Empty for the default group.
    pub group: String,
    /// Fingerprint of the shapes of all arguments and results; 0: not known. Reserved.
    pub fingerprint: u64,
}

impl HelloService {
    pub(crate) fn of(service: &ServiceDescriptor) -> Self {
        let key = service.key();
        Self {
            name: key.name().to_owned(),
            version: key.version().to_owned(),
            group: key.group().to_owned(),
            fingerprint: 0,
        }
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, RpcError> {
        let mut out = Vec::new();
        payload::encode(self, payload::Encoding::Named, &mut out)?;
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RpcError> {
        let mut hello: Self = payload::decode(bytes)?;
        // It is kept as long as the connection, and a service may be a single byte on the wire.
        hello.features.truncate(MAX_KEPT);
        hello.features.shrink_to_fit();
        hello.services.truncate(MAX_KEPT);
        hello.services.shrink_to_fit();
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_with_fields_of_a_later_version_is_still_read() {
        #[derive(Serialize)]
        struct Later {
            max_payload: u32,
            invented_later: Vec<(String, u8)>,
        }
        let later = Later { max_payload: 7, invented_later: vec![("x".into(), 1)] };
        let read = Hello::decode(&rmp_serde::to_vec_named(&later).unwrap()).unwrap();
        assert_eq!(read, Hello { max_payload: 7, ..Hello::default() });
    }
}
