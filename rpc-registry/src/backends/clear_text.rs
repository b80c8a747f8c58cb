//! Checks that credentials are not sent over unencrypted connections.

use std::net::IpAddr;

use crate::{RegistryError, RegistryUri};

/// The parameter that allows it.
pub(crate) const PARAM: &str = "insecure";

/// Checks a URI with `host:port` servers that are used without encryption. It must have no
/// credentials, or `insecure=1`, or all servers must be on this machine.
pub(crate) fn check(uri: &RegistryUri, servers: &[String]) -> Result<(), RegistryError> {
    let allowed = uri.number(PARAM, 0, 0..=1)? == 1;
    if allowed || uri.user().is_none() {
        return Ok(());
    }
    match servers.iter().find(|server| !is_loopback(server)) {
        None => Ok(()),
        Some(server) => Err(uri.wrong(format!(
            "its user and password would be sent to {server} over a connection that is not encrypted"
        ))),
    }
}

/// Whether a `host:port` server is on this machine.
pub(crate) fn is_loopback(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_machine_counts_as_safe() {
        for safe in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(is_loopback(safe), "{safe}");
        }
        for other in
            ["10.0.0.1:1", "localhost.evil.org:1", "127.0.0.1.evil.org:1", "[::2]:1", "h:1"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn credentials_need_encryption_or_a_word_that_they_do_not() {
        let checked = |uri: &str| {
            let uri = RegistryUri::parse(uri).unwrap();
            check(&uri, &uri.servers(1).unwrap())
        };
        let error = checked("x://me:hunter2@127.0.0.1,h/").unwrap_err();
        assert!(error.is_invalid_uri());
        let message = format!("{error} {error:?}");
        assert!(message.contains("sent to h:1") && !message.contains("hunter2"), "{message}");
        for allowed in ["x://h/", "x://me:pw@localhost/", "x://me:pw@h/?insecure=1"] {
            assert!(checked(allowed).is_ok(), "{allowed}");
        }
        for refused in ["x://me:pw@h/?insecure=0", "x://me:pw@h/?insecure=yes", "x://me@h/"] {
            assert!(checked(refused).is_err(), "{refused}");
        }
    }
}
