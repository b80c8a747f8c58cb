//! Which providers of a registry a client follows.

use crate::error::RpcError;
use crate::transport::{self, Protection};

/// Default of [`ClientBuilder::max_providers`](crate::ClientBuilder::max_providers).
const MAX_PROVIDERS: usize = 20_000;

/// How many addresses of a service a client uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubsetSize {
    /// The number of addresses in use.
    pub(crate) size: usize,
    /// A list of more addresses than this is not used as a whole.
    pub(crate) above: usize,
}

impl Default for SubsetSize {
    fn default() -> Self {
        Self { size: 20, above: 100 }
    }
}

/// Settings of a client for instances found in registries.
#[derive(Clone, Debug)]
pub(crate) struct DiscoverySettings {
    /// `None`: all schemes that are as safe as the client's other settings require.
    pub(super) schemes: Option<Vec<String>>,
    pub(super) allow_plaintext: bool,
    pub(crate) max_providers: usize,
    pub(crate) subset: SubsetSize,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            schemes: None,
            allow_plaintext: false,
            max_providers: MAX_PROVIDERS,
            subset: SubsetSize::default(),
        }
    }
}

impl DiscoverySettings {
    /// The schemes of addresses that are followed.
    ///
    /// # Errors
    /// A scheme is unknown, or less safe than the client's other settings require.
    pub(crate) fn schemes(&self, with_tls: bool) -> Result<Vec<&'static str>, RpcError> {
        let refuses =
            |protection| with_tls && !self.allow_plaintext && protection == Protection::Plaintext;
        let Some(named) = &self.schemes else {
            let all = transport::SCHEMES.iter().filter(|(_, protection)| !refuses(*protection));
            return Ok(all.map(|(scheme, _)| *scheme).collect());
        };
        let check = |name: &String| {
            let known = transport::SCHEMES.iter().find(|(scheme, _)| scheme == name);
            let (scheme, protection) = known.ok_or_else(|| {
                let known = transport::SCHEMES.map(|(scheme, _)| scheme).join(", ");
                RpcError::invalid(format!(
                    "`schemes`: there is no transport {name:?}; known are {known}"
                ))
            })?;
            if refuses(*protection) {
                return Err(RpcError::invalid(format!(
                    "`schemes` has {name:?}, which is not encrypted, and the client has TLS \
                     settings: leave it out, or add `allow_plaintext()`"
                )));
            }
            Ok(*scheme)
        };
        named.iter().map(check).collect()
    }

    /// Why an address of another scheme is not followed.
    pub(crate) fn why_not(&self) -> &'static str {
        match &self.schemes {
            Some(_) => "the client's `schemes` do not include it",
            None => "the client has TLS settings and no `allow_plaintext()`",
        }
    }
}
