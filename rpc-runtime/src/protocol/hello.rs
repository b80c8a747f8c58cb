//! The first frame in each direction: what the sender is and can do.

use serde::{Deserialize, Serialize};

use super::payload;
use crate::descriptor::ServiceDescriptor;
use crate::error::RpcError;

/// The feature of an end that reads metadata on responses.
pub(crate) const REPLY_METADATA: &str = "reply_metadata";

/// Services and features of a peer that are remembered.
const MAX_KEPT: usize = 1_024;

/// Methods of a peer whose fingerprints are remembered.
const MAX_KEPT_METHODS: usize = 4_096;

/// Bytes of a method in an encoded hello, at most: an array of two numbers.
const METHOD_BYTES: usize = 19;

/// What an end of a connection tells the other at the start. Unknown fields are skipped and missing
/// ones take the defaults of a peer that can nothing, so that it can grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Hello {
    /// Largest payload that the sender reads, in bytes; 0: not announced.
    pub max_payload: u32,
    /// Maximum requests of this connection that the sender runs at a time; 0: not announced. A peer
    /// that sends no more than that is always read, including its cancels and pings.
    pub max_requests: u32,
    /// The sender's heartbeat interval in milliseconds; 0: none.
    pub heartbeat_ms: u32,
    /// Maximum bytes of items of all streams of this connection that may be in transit to the
    /// sender of the hello; 0: not announced, no limit.
    pub stream_window: u32,
    /// Names of the optional features that the sender supports.
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
    /// The id of each method, and the fingerprint of the shapes of its arguments and result; 0: not
    /// known. Methods may be missing.
    pub methods: Vec<(u64, u64)>,
}

impl HelloService {
    pub(crate) fn new(service: &ServiceDescriptor, methods: Vec<(u64, u64)>) -> Self {
        let key = service.key();
        Self {
            name: key.name().to_owned(),
            version: key.version().to_owned(),
            group: key.group().to_owned(),
            methods,
        }
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, RpcError> {
        let mut out = Vec::new();
        payload::encode(self, payload::Form::Named, &mut out)?;
        Ok(out)
    }

    /// Leaves out fingerprints of methods, the last ones first, until the encoded hello has no more
    /// than `limit` bytes, if that is enough.
    pub(crate) fn shorten(&mut self, limit: usize) -> Result<(), RpcError> {
        loop {
            let excess = self.encode()?.len().saturating_sub(limit);
            let told = self.services.iter_mut().rfind(|service| !service.methods.is_empty());
            let (1.., Some(service)) = (excess, told) else { return Ok(()) };
            let left = service.methods.len().saturating_sub(excess.div_ceil(METHOD_BYTES));
            service.methods.truncate(left);
        }
    }

    /// Whether the sender has the optional ability.
    pub(crate) fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature == name)
    }

    /// Drops the services of the peer and the features that this end does not use.
    pub(crate) fn forget_services(&mut self) {
        let reads_metadata = self.has_feature(REPLY_METADATA);
        self.features = reads_metadata.then(|| REPLY_METADATA.to_owned()).into_iter().collect();
        self.services = Vec::new();
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RpcError> {
        let mut hello: Self = payload::decode(bytes)?;
        // It is kept as long as the connection, and a service may be a single byte on the wire.
        hello.features.truncate(MAX_KEPT);
        hello.features.shrink_to_fit();
        hello.services.truncate(MAX_KEPT);
        hello.services.shrink_to_fit();
        let mut room = MAX_KEPT_METHODS;
        for service in &mut hello.services {
            service.methods.truncate(room);
            service.methods.shrink_to_fit();
            room -= service.methods.len();
        }
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_that_is_too_long_goes_without_the_last_methods() {
        let methods = |service: u64| (0..1_000).map(|id| (u64::MAX - id, service << 60)).collect();
        let mut hello = Hello {
            services: (1..5)
                .map(|at| HelloService { methods: methods(at), ..HelloService::default() })
                .collect(),
            ..Hello::default()
        };
        let whole = hello.clone();
        hello.shorten(64 << 10).unwrap();
        assert!(hello.encode().unwrap().len() <= 64 << 10);
        let kept: Vec<usize> = hello.services.iter().map(|service| service.methods.len()).collect();
        assert!(kept[..2] == [1_000, 1_000] && kept[3] < 1_000, "{kept:?}");
        let mut short = Hello { services: whole.services[..3].to_vec(), ..Hello::default() };
        short.shorten(64 << 10).unwrap();
        assert_eq!(short.services, whole.services[..3], "it fits as it is");
    }

    #[test]
    fn of_the_methods_in_a_hello_no_more_than_4096_are_kept() {
        let methods = vec![(u64::MAX, u64::MAX); 3_000];
        let service = HelloService { methods, ..HelloService::default() };
        let hello = Hello { services: vec![service; 3], ..Hello::default() };
        let read = Hello::decode(&hello.encode().unwrap()).unwrap();
        let kept: Vec<usize> = read.services.iter().map(|service| service.methods.len()).collect();
        assert_eq!(kept, [3_000, 1_096, 0]);
    }

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
