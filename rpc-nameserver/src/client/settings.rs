//! [`NameServersSettings`]: the name servers to use, and how.

use std::time::Duration;

use rpc_registry::{RegistryError, RegistryUri, ResilientSettings};
#[cfg(feature = "tls")]
use rpc_runtime::ClientTls;

use super::security::{self, Token};
use crate::server::{is_on_network, scheme};

/// RocketMQ's.
const DEFAULT_PORT: u16 = 9876;
const MAX_SERVERS: usize = 32;
const SHORTEST_INTERVAL: u64 = 1_000;
const LONGEST_INTERVAL: u64 = 60_000;

/// The name servers to use, with intervals, timeouts and authentication.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NameServersSettings {
    /// For messages, credentials redacted.
    pub uri: String,
    /// Their addresses, as URIs of any transport of `rpc-runtime`.
    pub servers: Vec<String>,
    /// Between renewals; not zero, and a third of the expiry at most. Default 30 s.
    pub interval: Duration,
    /// What is not renewed for so long is removed. 1 s to a day; default 120 s.
    pub expiry: Duration,
    /// For the answer of each server, connecting included. Not zero, an hour at most; default 3 s.
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
    /// The defaults, for these servers.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        let servers: Vec<String> = servers.into_iter().map(Into::into).collect();
        Self {
            uri: format!("nameserver:{}", servers.join(",")),
            servers,
            interval: Duration::from_secs(30),
            expiry: Duration::from_secs(120),
            timeout: Duration::from_secs(3),
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            renew_tls: false,
            token: None,
        }
    }

    /// Another interval of renewals.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Another expiry.
    pub fn with_expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// Another time for each answer.
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
        if self.interval.is_zero() || self.expiry < self.interval.saturating_mul(3) {
            return wrong("the interval is not from 1 ms to a third of the expiry");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&self.expiry) {
            return wrong("the expiry is not from a second to a day");
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

    /// Those of a `nameserver:` URI, as [the crate](crate#the-uri) describes it.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`, saying what is wrong.
    pub fn from_uri(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let own = ["interval_ms", "expiry_ms", "timeout_ms"];
        uri.expect_params(&[&own[..], &security::PARAMS, &ResilientSettings::PARAMS].concat())?;
        if uri.user().is_some() || uri.password().is_some() {
            return Err(uri.wrong("name servers know no users").with_hint(
                "remove the part before the @; name a file with a token by token_file=",
            ));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(uri.wrong(format!("name servers have no path, such as {:?}", uri.path())));
        }
        let interval = uri.number("interval_ms", 30_000, 0..=u64::MAX)?;
        let interval = interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        let expiry = uri.number("expiry_ms", 120_000, 3_000..=3_600_000)?;
        if expiry < interval.saturating_mul(3) {
            return Err(uri
                .wrong(format!("expiry_ms={expiry} is less than three intervals of {interval} ms"))
                .with_hint("set a longer expiry_ms or a shorter interval_ms"));
        }
        let timeout = uri.number("timeout_ms", 3_000, 100..=60_000)?;
        let settings = Self::new(servers(uri)?);
        let settings = Self { uri: uri.as_str().to_owned(), ..settings }
            .with_interval(Duration::from_millis(interval))
            .with_expiry(Duration::from_millis(expiry))
            .with_timeout(Duration::from_millis(timeout));
        let settings = security::from_uri(settings, uri)?;
        settings.check()?;
        Ok(settings)
    }
}

fn servers(uri: &RegistryUri) -> Result<Vec<String>, RegistryError> {
    let servers = uri.servers(DEFAULT_PORT)?;
    match servers.len() {
        ..=MAX_SERVERS => {
            let scheme = security::scheme(uri);
            Ok(servers.iter().map(|server| format!("{scheme}://{server}")).collect())
        }
        many => Err(uri.wrong(format!("it names {many} servers; {MAX_SERVERS} are the most"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> Result<NameServersSettings, RegistryError> {
        NameServersSettings::from_uri(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn every_part_of_the_uri_has_its_effect() {
        let read = settings(
            "nameserver://a:1,[::1],b?interval_ms=2000&expiry_ms=9000&timeout_ms=500&app=x",
        );
        let read = read.unwrap();
        assert_eq!(read.servers, ["tcp://a:1", "tcp://[::1]:9876", "tcp://b:9876"]);
        assert_eq!(read.interval, Duration::from_secs(2));
        assert_eq!(read.expiry, Duration::from_secs(9));
        assert_eq!(read.timeout, Duration::from_millis(500));
        let plain = settings("nameserver://a/").unwrap();
        assert_eq!((plain.interval.as_secs(), plain.expiry.as_secs()), (30, 120));
    }

    #[test]
    fn intervals_are_clamped() {
        let of = |ms: u64| {
            let read = settings(&format!("nameserver://a?expiry_ms=3600000&interval_ms={ms}"));
            read.unwrap().interval.as_millis()
        };
        assert_eq!([of(0), of(1_500), of(u64::MAX)], [1_000, 1_500, 60_000]);
    }

    #[test]
    fn times_that_would_not_work_are_refused() {
        let good = NameServersSettings::new(["memory:a"]);
        assert!(good.check().is_ok());
        for bad in [
            NameServersSettings::new(Vec::<String>::new()),
            good.clone().with_interval(Duration::ZERO),
            good.clone().with_interval(Duration::from_secs(41)),
            good.clone().with_expiry(Duration::MAX),
            good.clone().with_timeout(Duration::ZERO),
            good.clone().with_timeout(Duration::MAX),
        ] {
            assert!(bad.check().unwrap_err().is_invalid_uri(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (uri, mention) in [
            ("nameserver:", "names no server"),
            ("nameserver://a:0", "\"a:0\" is not host:port"),
            ("nameserver://a,a:9876", "twice"),
            ("nameserver://me:secret@a", "know no users"),
            ("nameserver://a/shop", "no path"),
            ("nameserver://a?expiry_ms=3000", "three intervals"),
            ("nameserver://a?expiry_ms=1", "expiry_ms"),
            ("nameserver://a?intervall_ms=1", "did you mean \"interval_ms\""),
        ] {
            let error = settings(uri).unwrap_err();
            assert!(error.is_invalid_uri(), "{error:?}");
            assert!(error.to_string().contains(mention), "{error} does not say {mention:?}");
        }
        let many = (0..33).map(|n| format!("h{n}")).collect::<Vec<_>>().join(",");
        assert!(settings(&format!("nameserver://{many}")).unwrap_err().is_invalid_uri());
    }
}
