//! The settings of a `zookeeper:` URI.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::paths::Root;
use crate::backends::clear_text;
use crate::{RegistryError, RegistryUri, ResilientSettings};

const LEASE: Duration = Duration::from_secs(10);
/// Long enough for a second server to be tried after one that is silent.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Of both.
const RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
const PORT: u16 = 2181;

/// Whether every client of ZooKeeper may change the registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenAccess {
    /// Only the user of the URI may.
    No,
    Confirmed,
    /// Every client may, and the URI does not confirm it.
    Unconfirmed,
}

/// The settings of a connection.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The URI, credentials redacted.
    pub(super) uri: String,
    /// `host:port`, separated by commas.
    pub(super) servers: String,
    pub(super) root: Root,
    /// `user:password`, if they were given.
    pub(super) digest: Option<String>,
    pub(super) open: OpenAccess,
    pub(super) session_timeout: Duration,
    /// Timeout of a request.
    pub(super) timeout: Duration,
}

impl Settings {
    pub(super) fn from_uri(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let mut known = vec!["lease", "request_timeout", "acl", clear_text::PARAM];
        known.extend(ResilientSettings::PARAMS);
        uri.expect_params(&known)?;
        let session_timeout = uri.duration("lease", LEASE, RANGE)?;
        let timeout = uri.duration("request_timeout", REQUEST_TIMEOUT, RANGE)?;
        let digest = match (uri.user(), uri.password()) {
            (None, _) => None,
            (Some(user), Some(password)) if !user.is_empty() && !user.contains(':') => {
                Some(format!("{user}:{password}"))
            }
            _ => return Err(uri.wrong("a user needs a name, without a colon, and a password")),
        };
        let servers = uri.servers(PORT)?;
        clear_text::check(uri, &servers).map_err(|error| {
            error.with_hint(
                "connect through an encrypted tunnel that ends on this machine, or, where all on \
                 the way are trusted, say insecure=1",
            )
        })?;
        let open = match (uri.param("acl"), &digest) {
            (None, Some(_)) => OpenAccess::No,
            (None, None) if servers.iter().all(|server| clear_text::is_loopback(server)) => {
                OpenAccess::Confirmed
            }
            (None, None) => OpenAccess::Unconfirmed,
            (Some("open"), None) => OpenAccess::Confirmed,
            (Some("open"), Some(_)) => {
                return Err(uri.wrong("acl=open and a user contradict each other"));
            }
            (Some(other), _) => {
                return Err(uri.wrong(format!("the parameter acl={other:?} is not \"open\"")));
            }
        };
        Ok(Self {
            uri: uri.as_str().to_owned(),
            servers: servers.join(","),
            open,
            root: Root::of(uri)?,
            digest,
            session_timeout,
            timeout,
        })
    }
}

impl Settings {
    /// The silence of a server after which another one is used. It leaves time for that within a
    /// session and within a request. At least a second, for a busy server.
    pub(super) fn silence(&self) -> Duration {
        let of_session = self.session_timeout * 2 / 5;
        of_session.min((self.timeout * 2 / 5).max(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> Result<Settings, RegistryError> {
        Settings::from_uri(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn every_part_has_its_effect() {
        let read = settings(
            "zookeeper://me:p%40ss@a:1,b,[::1]:3/x?lease=4s&request_timeout=500ms&insecure=1",
        )
        .unwrap();
        assert_eq!(read.servers, "a:1,b:2181,[::1]:3");
        assert_eq!(read.digest.as_deref(), Some("me:p@ss"));
        assert_eq!(read.root.path(), "/x");
        assert_eq!(read.session_timeout, Duration::from_secs(4));
        assert_eq!(read.timeout, Duration::from_millis(500));
        assert!(!read.uri.contains("ss@"));
    }

    #[test]
    fn a_password_is_not_sent_in_clear_text_without_a_word() {
        let error = settings("zookeeper://me:hunter2@10.0.0.1").err().unwrap();
        let message = format!("{error} {error:?}");
        assert!(message.contains("not encrypted; connect through"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
        for fine in ["zookeeper://me:pw@localhost", "zookeeper://me:pw@10.0.0.1?insecure=1"] {
            assert_eq!(settings(fine).unwrap().open, OpenAccess::No, "{fine}");
        }
    }

    #[test]
    fn nodes_that_everybody_may_change_are_to_be_meant() {
        let open = |uri: &str| settings(uri).unwrap().open;
        assert_eq!(open("zookeeper://10.0.0.1"), OpenAccess::Unconfirmed);
        assert_eq!(open("zookeeper://10.0.0.1?acl=open"), OpenAccess::Confirmed);
        assert_eq!(open("zookeeper://127.0.0.1"), OpenAccess::Confirmed);
    }

    #[test]
    fn a_silent_server_leaves_time_for_another_one() {
        let silence = |session: u64, connect: u64| {
            let both = format!("lease={session}ms&request_timeout={connect}ms");
            settings(&format!("zookeeper://a?{both}")).unwrap().silence().as_millis()
        };
        assert_eq!(silence(10_000, 5_000), 2_000);
        assert_eq!(silence(1_000, 5_000), 400);
        assert_eq!(silence(10_000, 500), 1_000);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "zookeeper:",
            "zookeeper:///path",
            "zookeeper://a,,b",
            "zookeeper://me@a",
            "zookeeper://:word@a",
            "zookeeper://a?lease=0s",
            "zookeeper://a?session_timeout=4000",
            "zookeeper://a/x//y",
            "zookeeper://me:word@a",
            "zookeeper://a?acl=closed",
            "zookeeper://me:word@127.0.0.1?acl=open",
        ] {
            let error = settings(bad).err().unwrap_or_else(|| panic!("{bad} was accepted"));
            assert!(error.is_invalid_uri(), "{bad}: {error}");
        }
        let parameters = "lease=9s&cache=off&protect_percent=20";
        assert!(settings(&format!("zookeeper://a?{parameters}")).is_ok());
    }
}
