//! Addresses of name servers.

use std::net::IpAddr;

/// The scheme of a URI, in lower case.
pub(crate) fn scheme(uri: &str) -> String {
    uri.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase()
}

/// Whether other machines can reach the address of a URI, or may be able to.
pub(crate) fn is_on_network(uri: &str) -> bool {
    if !matches!(&*scheme(uri), "tcp" | "tls") {
        return false;
    }
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => !address.to_canonical().is_loopback(),
        Err(_) => host != "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_machines_can_reach_is_known() {
        for near in [
            "tcp://127.0.0.1:1",
            "tcp://[::1]:0",
            "tls://127.9.9.9:1",
            "tcp://localhost:1",
            "tcp://[::ffff:127.0.0.1]:1",
            "unix:///tmp/x",
            "memory:x",
            "nonsense",
        ] {
            assert!(!is_on_network(near), "{near}");
        }
        for far in ["tcp://0.0.0.0:1", "TCP://[::]:1", "tls://10.0.0.1:1", "tcp://names:1", "tcp:x"]
        {
            assert!(is_on_network(far), "{far}");
        }
    }
}
