//! [`NameServersSettings`]: the name servers to use, and how.

use std::time::Duration;

use rpc_registry::RegistryError;
#[cfg(feature = "tls")]
use rpc_runtime::ClientTls;

use super::token::Token;
use crate::address::{is_on_network, scheme};

/// The name servers to use, with intervals, timeouts and authentication.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NameServersSettings {
    /// The URI in messages, credentials redacted.
    pub uri: String,
    /// The addresses of the servers, as URIs of any transport of `rpc-runtime`.
    pub servers: Vec<String>,
    /// Interval between renewals; not zero, at most a third of the lease. Default 30 s.
    pub interval: Duration,
    /// A registration that is not renewed for this time is removed. 1 s to a day; default 120 s.
    pub lease: Duration,
    /// Timeout for the response of each server, connecting included. Not zero, at most an hour;
    /// default 3 s.
    pub timeout: Duration,
    /// TLS settings: the authorities of the servers and the certificate of this client. With them,
    /// only servers at `tls:` are used.
    #[cfg(feature = "tls")]
    pub tls: Option<ClientTls>,
    /// Whether its files are reloaded periodically.
    #[cfg(feature = "tls")]
    pub(super) renew_tls: bool,
    /// Authenticates this client to the servers.
    pub(super) token: Option<Token>,
}

impl NameServersSettings {
    /// The default settings for these servers.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        let servers: Vec<String> = servers.into_iter().map(Into::into).collect();
        Self {
            uri: format!("nameserver:{}", servers.join(",")),
            servers,
            interval: Duration::from_secs(30),
            lease: Duration::from_secs(120),
            timeout: Duration::from_secs(3),
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            renew_tls: false,
            token: None,
        }
    }

    /// Sets the interval between renewals.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the lease.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the timeout for each response.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets TLS: the authorities of the servers, and the certificate of this client if it has one.
    /// All servers must be given as `tls://host:port`.
    #[cfg(feature = "tls")]
    pub fn with_tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets a token that authenticates this client. It is sent only over TLS or to servers on this
    /// machine; other addresses are refused.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` unless the token has 1 to 4,096 visible ASCII characters.
    pub fn with_token(mut self, token: impl Into<String>) -> Result<Self, RegistryError> {
        let token = Token::new(token.into());
        self.token = Some(token.map_err(|what| self.wrong(what))?);
        Ok(self)
    }

    fn wrong(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::invalid_uri(what).with_registry(&self.uri)
    }

    pub(super) fn check(&self) -> Result<(), RegistryError> {
        let wrong = |what: &str| Err(self.wrong(what));
        if self.servers.is_empty() {
            return wrong("no name server is named");
        }
        if self.interval.is_zero() || self.lease < self.interval.saturating_mul(3) {
            return wrong("the interval is not from 1 ms to a third of the lease");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&self.lease) {
            return wrong("the lease is not from a second to a day");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_secs(3_600) {
            return wrong("the timeout is not from 1 ms to an hour");
        }
        self.servers.iter().try_for_each(|server| self.check_server(server))
    }

    /// Checks that no secret is sent unencrypted.
    fn check_server(&self, server: &str) -> Result<(), RegistryError> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() && scheme(server) != "tls" {
            let error = self.wrong(format!(
                "{server} is not a tls: address, and with TLS settings only those are used"
            ));
            return Err(error);
        }
        if self.token.is_some() && scheme(server) == "tcp" && is_on_network(server) {
            let error = self.wrong(format!("the token would be sent unencrypted to {server}"));
            return Err(error.with_hint("use TLS: name the authority of the servers with ca="));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_would_not_work_are_refused() {
        let good = NameServersSettings::new(["memory:a"]);
        assert!(good.check().is_ok());
        for bad in [
            NameServersSettings::new(Vec::<String>::new()),
            good.clone().with_interval(Duration::ZERO),
            good.clone().with_interval(Duration::from_secs(41)),
            good.clone().with_lease(Duration::MAX),
            good.clone().with_timeout(Duration::ZERO),
            good.clone().with_timeout(Duration::MAX),
        ] {
            assert!(bad.check().unwrap_err().is_invalid_uri(), "{bad:?}");
        }
    }
}
