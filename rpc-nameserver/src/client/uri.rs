//! The settings of a `nameserver:` URI.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::time::Duration;

use rpc_registry::{RegistryError, RegistryUri, ResilientSettings};

use super::settings::NameServersSettings;
use super::token::MAX_TOKEN;

/// The default port of RocketMQ's name servers.
const DEFAULT_PORT: u16 = 9876;
const MAX_SERVERS: usize = 32;
const SECOND: Duration = Duration::from_secs(1);
const RENEW_INTERVAL: RangeInclusive<Duration> = SECOND..=Duration::from_secs(60);
const LEASE: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(3_600);
const REQUEST_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);
/// The parameters for authentication.
const SECURITY_PARAMS: [&str; 5] = ["ca", "cert", "key", "server_name", "token_file"];

impl NameServersSettings {
    /// The settings of a `nameserver:` URI; see [the crate](crate#the-uri).
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`, with the reason.
    pub fn from_uri(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let own = ["renew_interval", "lease", "request_timeout"];
        uri.expect_params(&[&own[..], &SECURITY_PARAMS, &ResilientSettings::PARAMS].concat())?;
        if uri.user().is_some() || uri.password().is_some() {
            return Err(uri.wrong("name servers have no users").with_hint(
                "remove the part before the @; name a file with a token by token_file=",
            ));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(uri.wrong(format!("name servers have no path, such as {:?}", uri.path())));
        }
        let settings = Self::new(servers(uri)?);
        let interval = uri.duration("renew_interval", settings.interval, RENEW_INTERVAL)?;
        let lease = uri.duration("lease", settings.lease, LEASE)?;
        if lease < interval.saturating_mul(3) {
            return Err(uri
                .wrong(format!("lease={lease:?} is less than three intervals of {interval:?}"))
                .with_hint("set a longer lease or a shorter renew_interval"));
        }
        let timeout = uri.duration("request_timeout", settings.timeout, REQUEST_TIMEOUT)?;
        let settings = Self { uri: uri.as_str().to_owned(), ..settings }
            .with_interval(interval)
            .with_lease(lease)
            .with_timeout(timeout);
        let settings = with_security(settings, uri)?;
        settings.check()?;
        Ok(settings)
    }
}

fn servers(uri: &RegistryUri) -> Result<Vec<String>, RegistryError> {
    let servers = uri.servers(DEFAULT_PORT)?;
    match servers.len() {
        ..=MAX_SERVERS => {
            let scheme = transport(uri);
            Ok(servers.iter().map(|server| format!("{scheme}://{server}")).collect())
        }
        many => Err(uri.wrong(format!("it names {many} servers; the maximum is {MAX_SERVERS}"))),
    }
}

/// The transport of a URI: TLS if it names an authority.
fn transport(uri: &RegistryUri) -> &'static str {
    if uri.param("ca").is_some() { "tls" } else { "tcp" }
}

/// Applies the parameters for authentication.
fn with_security(
    settings: NameServersSettings,
    uri: &RegistryUri,
) -> Result<NameServersSettings, RegistryError> {
    let settings = match uri.param("ca") {
        Some(ca) => with_tls(settings, uri, ca)?,
        None => match ["cert", "key", "server_name"].iter().find(|it| uri.param(it).is_some()) {
            Some(param) => {
                return Err(uri
                    .wrong(format!("{param} needs ca, the authority of the servers"))
                    .with_hint("name its PEM file with ca="));
            }
            None => settings,
        },
    };
    let Some(path) = uri.param("token_file") else { return Ok(settings) };
    let mut text = String::new();
    let limit = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX).saturating_add(2);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|error| uri.wrong(format!("the file of token_file can't be read: {error}")))?;
    settings.with_token(text.trim())
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    _: NameServersSettings,
    uri: &RegistryUri,
    _: &str,
) -> Result<NameServersSettings, RegistryError> {
    Err(uri.wrong("this program was built without the feature tls of rpc-nameserver"))
}

#[cfg(feature = "tls")]
fn with_tls(
    settings: NameServersSettings,
    uri: &RegistryUri,
    ca: &str,
) -> Result<NameServersSettings, RegistryError> {
    use rpc_runtime::{ClientTls, RpcError};

    let wrong = |error: RpcError| uri.wrong(error.message());
    let mut tls = ClientTls::roots_pem_file(ca).map_err(wrong)?;
    match (uri.param("cert"), uri.param("key")) {
        (Some(cert), Some(key)) => {
            tls = tls.identity_pem_files(cert, key).map_err(wrong)?;
        }
        (None, None) => {}
        _ => return Err(uri.wrong("the parameters cert and key must be given together")),
    }
    if let Some(name) = uri.param("server_name") {
        tls = tls.server_name(name).map_err(wrong)?;
    }
    Ok(NameServersSettings { renew_tls: true, ..settings.with_tls(tls) })
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
            "nameserver://a:1,[::1],b?renew_interval=2s&lease=9s&request_timeout=500ms&app=x",
        );
        let read = read.unwrap();
        assert_eq!(read.servers, ["tcp://a:1", "tcp://[::1]:9876", "tcp://b:9876"]);
        assert_eq!(read.interval, Duration::from_secs(2));
        assert_eq!(read.lease, Duration::from_secs(9));
        assert_eq!(read.timeout, Duration::from_millis(500));
        let plain = settings("nameserver://a/").unwrap();
        assert_eq!((plain.interval.as_secs(), plain.lease.as_secs()), (30, 120));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (uri, mention) in [
            ("nameserver:", "names no server"),
            ("nameserver://a:0", "\"a:0\" is not host:port"),
            ("nameserver://a,a:9876", "twice"),
            ("nameserver://me:secret@a", "have no users"),
            ("nameserver://a/shop", "no path"),
            ("nameserver://a?lease=3s", "three intervals"),
            ("nameserver://a?lease=1s", "from 3s to 1h"),
            ("nameserver://a?renew_interval=2m", "from 1s to 1m"),
            ("nameserver://a?expiry_ms=9000", "write lease=9s"),
            ("nameserver://a?renew_intervall=1s", "did you mean \"renew_interval\""),
        ] {
            let error = settings(uri).unwrap_err();
            assert!(error.is_invalid_uri(), "{error:?}");
            assert!(error.to_string().contains(mention), "{error} does not say {mention:?}");
        }
        let many = (0..33).map(|n| format!("h{n}")).collect::<Vec<_>>().join(",");
        assert!(settings(&format!("nameserver://{many}")).unwrap_err().is_invalid_uri());
    }
}
