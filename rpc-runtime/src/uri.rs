//! Addresses of providers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::error::RpcError;

/// A URI of the form `scheme:rest`, with a scheme and without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Uri {
    /// Shared by an endpoint and its links.
    text: Arc<str>,
    scheme_len: usize,
}

impl Uri {
    pub(crate) fn parse(text: &str) -> Result<Self, RpcError> {
        let invalid = |why: &str| {
            RpcError::invalid(format!(
                "`{text}` is not a valid provider URI: {why}, such as tcp://127.0.0.1:9000"
            ))
        };
        let (scheme, rest) =
            text.split_once(':').ok_or_else(|| invalid("it must begin with a scheme"))?;
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !scheme.is_empty() && is_port(rest) {
            return Err(RpcError::invalid(format!(
                "`{text}` is not a valid provider URI: did you mean tcp://{text}?"
            )));
        }
        let of_scheme = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'+';
        if scheme.is_empty() || !scheme.bytes().all(of_scheme) {
            return Err(invalid("its scheme must be lower-case letters"));
        }
        if rest.is_empty() {
            return Err(invalid("an address must follow the scheme"));
        }
        if text.contains(|c: char| c.is_whitespace() || !rpc_registry::is_printable(c)) {
            return Err(invalid("it must not contain spaces or invisible characters"));
        }
        Ok(Self { text: text.into(), scheme_len: scheme.len() })
    }

    pub(crate) fn scheme(&self) -> &str {
        self.text.get(..self.scheme_len).unwrap_or_default()
    }

    /// The part after the scheme, without leading `//`.
    pub(crate) fn rest(&self) -> &str {
        let rest = self.text.get(self.scheme_len + 1..).unwrap_or_default();
        rest.strip_prefix("//").unwrap_or(rest)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The address by which the connections of a peer are counted; `None` for peers without an address.
/// An IPv6 /64 counts as one address.
pub(crate) fn host(peer: &str) -> Option<IpAddr> {
    let (_, address) = peer.split_once("://")?;
    let address = address.parse::<SocketAddr>().ok()?;
    Some(match address.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_uri_is_shown_with_the_reason_and_an_example() {
        for bad in ["", "127.0.0.1", "TCP://x:1", "tcp:", "tcp://a b:1", ":9000"] {
            let error = Uri::parse(bad).unwrap_err();
            assert!(error.is_invalid() && error.message().contains(&format!("`{bad}`")), "{error}");
            assert!(error.message().contains("tcp://127.0.0.1:9000"), "{error}");
        }
        for bad in ["127.0.0.1:9000", "localhost:9000"] {
            let error = Uri::parse(bad).unwrap_err();
            assert!(error.message().contains(&format!("did you mean tcp://{bad}?")), "{error}");
        }
        let error = Uri::parse("tcp://a\u{202e}b:1").unwrap_err();
        assert!(error.message().contains(r"a\u{202e}b"), "{error}");
        let uri = Uri::parse("tcp://[::1]:80").unwrap();
        assert_eq!((uri.scheme(), uri.rest()), ("tcp", "[::1]:80"));
    }
}
