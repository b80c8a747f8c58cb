//! Which providers of a registry a client follows.

use super::ClientBuilder;
use crate::error::RpcError;
use crate::transport::{self, Protection};

/// Default of [`ClientBuilder::max_providers`].
const MAX_PROVIDERS: usize = 20_000;

/// Settings of a client for instances found in registries.
#[derive(Clone, Debug)]
pub(crate) struct DiscoverySettings {
    /// `None`: all schemes that are as safe as the client's other settings require.
    schemes: Option<Vec<String>>,
    allow_plaintext: bool,
    pub(crate) max_providers: usize,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self { schemes: None, allow_plaintext: false, max_providers: MAX_PROVIDERS }
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

impl ClientBuilder {
    /// Lets a client with TLS settings follow registered addresses without encryption, `tcp:` and
    /// `unix:`. Default: it follows `tls:` and `memory:` only. Use it while a service migrates to TLS.
    ///
    /// The default prevents a writer of the registry from redirecting calls and credentials to a
    /// plaintext connection. A client without TLS settings follows all schemes.
    /// [`connect`](Self::connect) is not affected: its address does not come from a registry.
    pub fn allow_plaintext(mut self) -> Self {
        self.discovery.allow_plaintext = true;
        self
    }

    /// The address schemes that [`discover`](Self::discover) follows, of `tcp`, `tls`, `unix` and
    /// `memory`. Default: all; with TLS settings `tls` and `memory`, see
    /// [`allow_plaintext`](Self::allow_plaintext). Instances with other schemes are skipped and
    /// logged.
    pub fn schemes(mut self, schemes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.discovery.schemes = Some(schemes.into_iter().map(Into::into).collect());
        self
    }

    /// Maximum instances of a service that [`discover`](Self::discover) follows. Default 20,000; at
    /// least 1. Of a longer list, addresses that are already followed are kept, then the first of the
    /// others are added. The rest is skipped and logged.
    pub fn max_providers(mut self, instances: usize) -> Self {
        self.discovery.max_providers = instances.max(1);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    fn schemes(builder: ClientBuilder, with_tls: bool) -> Result<Vec<&'static str>, RpcError> {
        builder.discovery.schemes(with_tls)
    }

    #[test]
    fn with_tls_settings_a_registry_cannot_choose_plain_text() {
        let builder = Client::builder;
        assert!(schemes(builder(), false).unwrap().contains(&"tcp"));
        assert_eq!(schemes(builder(), true).unwrap(), ["tls", "memory"]);
        assert!(schemes(builder().allow_plaintext(), true).unwrap().contains(&"tcp"));
        assert_eq!(schemes(builder().schemes(["tls"]), true).unwrap(), ["tls"]);
        let both = || builder().schemes(["tls", "tcp"]);
        assert_eq!(schemes(both(), false).unwrap(), ["tls", "tcp"]);
        assert_eq!(schemes(both().allow_plaintext(), true).unwrap(), ["tls", "tcp"]);
        let error = schemes(both(), true).unwrap_err();
        assert!(error.is_invalid() && error.message().contains("allow_plaintext"), "{error}");
        let error = schemes(builder().schemes(["http"]), false).unwrap_err();
        assert!(error.is_invalid() && error.message().contains("\"http\""), "{error}");
    }
}
