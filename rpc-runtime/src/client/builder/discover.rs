//! Settings for discovered providers.

use super::ClientBuilder;
use crate::client::discovery::SubsetSize;

impl ClientBuilder {
    /// Lets a client with TLS settings follow registered addresses without encryption, `tcp:` and
    /// `unix:`. Default: it follows `tls:` and `memory:` only. Use it while a service migrates to
    /// TLS.
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
    /// least 1. Of a longer list, addresses that are already followed are kept, then the first of
    /// the others are added. The rest is skipped and logged.
    pub fn max_providers(mut self, instances: usize) -> Self {
        self.discovery.max_providers = instances.max(1);
        self
    }

    /// Number of addresses of a service that [`discover`](Self::discover) uses and connects to, at
    /// least 1; [`usize::MAX`] for all. A list of more addresses is used in part. Default: 20 of a
    /// list of more than 100, until it has no more than 20.
    ///
    /// Otherwise thousands of clients and thousands of providers would have millions of
    /// connections. Each client chooses by a rendezvous hash of the address and a random number of
    /// its own. So clients choose independently of each other, and a change of the list changes as
    /// few addresses of the subset as possible: one that leaves is replaced by the next one in the
    /// client's order. For each address that cannot be reached, another one is used in addition;
    /// this is checked every second.
    ///
    /// Providers get the same number of clients on average. With *c* clients, a subset of *s*, and
    /// *n* providers the standard deviation is about √(*c s* / *n*). Use a larger subset if there
    /// are few clients that make many calls.
    pub fn subset(mut self, addresses: usize) -> Self {
        let size = addresses.max(1);
        self.discovery.subset = SubsetSize { size, above: size };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;
    use crate::error::RpcError;

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
