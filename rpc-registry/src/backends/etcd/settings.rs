//! [`Settings`]: the settings of an `etcd://` URI.

use std::fs;
use std::io::Read;
use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::keys::Keys;
use crate::backends::clear_text;
use crate::{RegistryError, RegistryUri, ResilientSettings};

const DEFAULT_PORT: u16 = 2379;
const DEFAULT_PREFIX: &str = "/rpc-registry";
/// Maximum size of a file with certificates.
const MAX_PEM: u64 = 1 << 20;
/// etcd closes connections with a keep-alive interval below 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);

const LEASE: Duration = Duration::from_secs(10);
const LEASE_RANGE: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(86_400);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(600);
const PARAMS: [&str; 6] = ["lease", "request_timeout", "ca", "cert", "key", clear_text::PARAM];

pub(super) struct Settings {
    /// The URI, credentials redacted.
    pub(super) uri: String,
    /// The servers, with their names in messages; at least one.
    pub(super) servers: Vec<(String, Endpoint)>,
    pub(super) credentials: Option<(String, String)>,
    pub(super) keys: Keys,
    /// The lease, in seconds.
    pub(super) ttl: i64,
    /// Timeout of a request, including connecting and failover.
    pub(super) timeout: Duration,
}

impl Settings {
    pub(super) fn from_uri(uri: &RegistryUri) -> Result<Self, RegistryError> {
        uri.expect_params(&[&PARAMS[..], &ResilientSettings::PARAMS].concat())?;
        // etcd counts whole seconds.
        let lease = uri.duration("lease", LEASE, LEASE_RANGE)?.as_millis().div_ceil(1_000);
        let timeout = uri.duration("request_timeout", REQUEST_TIMEOUT, REQUEST_TIMEOUT_RANGE)?;
        let tls = tls(uri)?;
        let servers = uri.servers(DEFAULT_PORT)?;
        let credentials = match (uri.user(), uri.password()) {
            (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
            (None, None) => None,
            _ => return Err(uri.wrong("user and password must be given together")),
        };
        if tls.is_none() {
            clear_text::check(uri, &servers).map_err(|error| {
                error.with_hint(
                    "name the authority of the servers' certificates with ca=, or, where all on \
                     the way are trusted, say insecure=1",
                )
            })?;
        }
        let servers = servers.into_iter().map(|server| {
            let endpoint = endpoint(&server, tls.as_ref())
                .map_err(|why| uri.wrong(format!("{server:?} can't be used: {why}")))?;
            let endpoint = endpoint
                .connect_timeout(timeout)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_ANSWER);
            Ok((server, endpoint))
        });
        let prefix = match uri.path().trim_end_matches('/') {
            "" => DEFAULT_PREFIX,
            prefix => prefix,
        };
        Ok(Self {
            uri: uri.as_str().to_owned(),
            servers: servers.collect::<Result<_, RegistryError>>()?,
            credentials,
            keys: Keys::new(prefix),
            ttl: i64::try_from(lease).unwrap_or(i64::MAX),
            timeout,
        })
    }
}

fn endpoint(server: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint =
        Endpoint::from_shared(format!("{scheme}://{server}")).map_err(|error| error.to_string())?;
    match tls {
        Some(tls) => endpoint.tls_config(tls.clone()).map_err(|error| root_cause(&error)),
        None => Ok(endpoint),
    }
}

/// TLS settings, if the URI has `ca=`.
fn tls(uri: &RegistryUri) -> Result<Option<ClientTlsConfig>, RegistryError> {
    let identity = match (uri.param("cert"), uri.param("key")) {
        (Some(cert), Some(key)) => {
            Some(Identity::from_pem(read(uri, "cert", cert)?, read(uri, "key", key)?))
        }
        (None, None) => None,
        _ => return Err(uri.wrong("the parameters cert and key must be given together")),
    };
    let Some(ca) = uri.param("ca") else {
        return match identity {
            Some(_) => Err(uri.wrong("cert and key need ca, the authority of the servers")),
            None => Ok(None),
        };
    };
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(uri, "ca", ca)?));
    Ok(Some(match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    }))
}

fn read(uri: &RegistryUri, param: &str, path: &str) -> Result<Vec<u8>, RegistryError> {
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_PEM + 1).read_to_end(&mut text))
        .map_err(|error| uri.wrong(format!("the file {param}={path:?} can't be read: {error}")))?;
    if !text.starts_with(b"-----BEGIN") && !text.windows(11).any(|at| at == b"\n-----BEGIN") {
        return Err(uri.wrong(format!("the file {param}={path:?} is not PEM")));
    }
    match text.len() as u64 > MAX_PEM {
        true => Err(uri.wrong(format!("the file {param}={path:?} has more than {MAX_PEM} bytes"))),
        false => Ok(text),
    }
}

/// The root cause of an error: the outer errors of a transport are not specific.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> Result<Settings, RegistryError> {
        Settings::from_uri(&RegistryUri::parse(uri).unwrap())
    }

    fn refused(uri: &str, mention: &str) {
        let error = match settings(uri) {
            Ok(_) => panic!("{uri} was accepted"),
            Err(error) => error,
        };
        assert!(error.is_invalid_uri());
        assert!(error.to_string().contains(mention), "{error} does not say {mention:?}");
    }

    #[test]
    fn every_part_has_its_effect() {
        let read = settings(
            "etcd://me:pw@a:1,b,[::1]:3/p/q/?lease=4500ms&request_timeout=70ms&insecure=1",
        )
        .unwrap();
        let uris: Vec<_> = read.servers.iter().map(|(_, it)| it.uri().to_string()).collect();
        assert_eq!(uris, ["http://a:1/", "http://b:2379/", "http://[::1]:3/"]);
        assert_eq!(read.credentials, Some(("me".to_owned(), "pw".to_owned())));
        assert_eq!(read.keys.all(), b"/p/q/");
        assert_eq!((read.ttl, read.timeout), (5, Duration::from_millis(70)));
        let default = settings("etcd://h").unwrap();
        assert_eq!((default.ttl, default.timeout), (10, Duration::from_secs(3)));
        assert_eq!(default.keys.all(), b"/rpc-registry/");
    }

    #[test]
    fn a_uri_that_leads_nowhere_is_refused() {
        refused("etcd:", "names no server");
        refused("etcd:///prefix", "names no server");
        refused("etcd://a:1,,b:2", "\"\" is not host:port");
        refused("etcd://\u{e4}:1", "can't be used");
        refused("etcd://me@a:1", "together");
        refused("etcd://a?lease=1s", "from 2s to 1day");
        refused("etcd://a?laese=5s", "did you mean \"lease\"");
        refused("etcd://a?ttl=5", "write lease=5s");
        refused("etcd://a?request_timeout=0s", "from 1ms to");
    }

    #[test]
    fn a_password_is_not_sent_in_clear_text_without_a_word() {
        refused("etcd://me:hunter2@10.0.0.1", "not encrypted; name the authority");
        let error = settings("etcd://me:hunter2@10.0.0.1").err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(settings("etcd://me:pw@127.0.0.1:1").is_ok());
        assert!(settings("etcd://me:pw@10.0.0.1?insecure=1").is_ok());
    }

    #[test]
    fn files_of_tls_are_read_at_once() {
        refused("etcd://a?ca=/nowhere.pem", "/nowhere.pem");
        refused("etcd://a?ca=/proc/self/stat", "is not PEM");
        refused("etcd://a?cert=/x.pem", "together");
    }
}
