/// `text` with a port; `None` if it is not a host with or without a port.
pub(super) fn host_and_port(text: &str, default_port: u16) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of an IPv6 address without a port is within its brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, default_port),
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)),
    };
    (is_host && port != 0).then(|| format!("{host}:{port}"))
}

/// Splits `scheme:rest`; `None` if there is no well-formed scheme (RFC 3986: a letter, then
/// letters, digits, `+`, `-`, `.`).
pub(crate) fn split_scheme(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    is_scheme(scheme).then_some((scheme, rest))
}

/// Whether `name` is a well-formed scheme.
pub(crate) fn is_scheme(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}
