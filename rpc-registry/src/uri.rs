use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::RegistryError;
use crate::percent::decode;
use crate::suggest::nearest;

/// The URI of a registry, taken apart: `scheme://user:password@authority/path?name=value`.
///
/// Back ends get one from [`connect`](crate::connect). Path, user, password and parameters are
/// percent-decoded. What is printed, by `Display` and `Debug` alike, shows no credentials: the
/// password is replaced by `***`, and so is each parameter whose name contains `password`,
/// `secret` or `token`.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryUri {
    shown: String,
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    authority: Option<String>,
    path: String,
    params: Vec<(String, String)>,
}

/// The URI of the file registry in `folder`, with everything escaped that a URI would take for
/// something else.
///
/// # Errors
///
/// `is_invalid_uri` if the path is not UTF-8.
///
/// ```
/// let uri = rpc_registry::file_uri("/tmp/100% local")?;
/// assert_eq!(uri, "file:///tmp/100%25%20local");
/// # Ok::<(), rpc_registry::RegistryError>(())
/// ```
pub fn file_uri(folder: impl AsRef<Path>) -> Result<String, RegistryError> {
    let folder = folder.as_ref();
    let path = folder.to_str().ok_or_else(|| {
        RegistryError::invalid_uri(format!("the path {} is not UTF-8", folder.display()))
    })?;
    let mut uri = String::from(if folder.is_absolute() { "file://" } else { "file:" });
    if folder.is_relative() && !path.contains('/') {
        // Without it, it would be a short name.
        uri.push_str("./");
    }
    for c in path.chars() {
        match c {
            '%' | '?' | '#' => uri.push_str(&format!("%{:02X}", u32::from(c))),
            c if c.is_whitespace() || c.is_control() => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|b| uri.push_str(&format!("%{b:02X}")));
            }
            c => uri.push(c),
        }
    }
    Ok(uri)
}

impl RegistryUri {
    /// Takes `text` apart.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`, showing the URI and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let shown = redact(text);
        let wrong = |what: String| {
            RegistryError::invalid_uri(format!("invalid registry URI {shown:?}: {what}"))
        };
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return Err(wrong(format!("it contains the control character {bad:?}")));
        }
        if text.contains('#') {
            return Err(wrong("it has a fragment".into()).with_hint("write a literal # as %23"));
        }
        let (scheme, rest) = split_scheme(text).ok_or_else(|| {
            wrong("it does not start with a scheme".into()).with_hint(
                "a folder on this machine is written file:rpc-demo or file:///srv/rpc-demo",
            )
        })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(authority), path)
            }
            None => (None, rest),
        };
        let (userinfo, authority) = match authority.map(|a| (a.rsplit_once('@'), a)) {
            Some((Some((userinfo, hosts)), _)) => (Some(userinfo), Some(hosts)),
            Some((None, hosts)) => (None, Some(hosts)),
            None => (None, None),
        };
        let decode = |part: &str| decode(part).map_err(wrong);
        let (user, password) = match userinfo.map(|u| u.split_once(':').unwrap_or((u, ""))) {
            Some((user, "")) => (Some(decode(user)?), None),
            Some((user, password)) => (Some(decode(user)?), Some(decode(password)?)),
            None => (None, None),
        };
        let mut params: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if params.iter().any(|(known, _)| *known == name) {
                return Err(wrong(format!("the parameter {name:?} is given twice")));
            }
            params.push((name, value));
        }
        let (scheme, path) = (scheme.to_ascii_lowercase(), decode(path)?);
        let authority = authority.filter(|a| !a.is_empty()).map(str::to_owned);
        Ok(Self { scheme, user, password, authority, path, params, shown })
    }

    /// The URI as it was given, credentials redacted.
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user name, if one was given.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, if one was given. Keep it out of messages.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// What stands between `//`, or the credentials, and the path: often a host and port, or a
    /// list of them. `None` when there is no such part or it is empty.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The servers that the [authority](Self::authority) names, as `host:port`, with this port where
    /// none is given: `a:1,b,[::1]:3`. In the order of the URI; at least one, and each once.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` if there is none, or one is no host and port or named twice.
    ///
    /// ```
    /// # use rpc_registry::RegistryUri;
    /// let uri = RegistryUri::parse("mine://10.0.0.1:7000,[::1]/shop")?;
    /// assert_eq!(uri.servers(9000)?, ["10.0.0.1:7000", "[::1]:9000"]);
    /// # Ok::<(), rpc_registry::RegistryError>(())
    /// ```
    pub fn servers(&self, default_port: u16) -> Result<Vec<String>, RegistryError> {
        let example =
            format!("write it like {0}://10.0.0.1:{1},10.0.0.2:{1}", self.scheme, default_port);
        let Some(authority) = self.authority() else {
            return Err(self.wrong("it names no server").with_hint(example));
        };
        let mut servers = Vec::new();
        for place in authority.split(',') {
            let server = host_and_port(place, default_port).ok_or_else(|| {
                match self.shown.contains(place) {
                    true => self.wrong(format!("{place:?} is not host:port")).with_hint(&*example),
                    // It is part of credentials that were taken apart at the wrong place.
                    false => self.wrong("a part that is not shown is not host:port").with_hint(
                        "write `/`, `?` and `@` in a user or a password as %2F, %3F and %40",
                    ),
                }
            })?;
            if servers.contains(&server) {
                return Err(self.wrong(format!("it names {place:?} twice")));
            }
            servers.push(server);
        }
        Ok(servers)
    }

    /// The path, with its leading slash if there is one.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of a parameter; empty if it stands there without one.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is a whole number, or `default` if it is not there.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` when it is no number or outside `range`.
    pub fn number(
        &self,
        name: &str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, RegistryError> {
        let Some(value) = self.param(name) else { return Ok(default) };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(self.wrong(format!(
                "the parameter {name}={value:?} is not a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// Refuses parameters that the back end does not know, so that a misspelt one does not go
    /// unnoticed.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`, listing the `known` ones and suggesting the nearest.
    pub fn expect_params(&self, known: &[&str]) -> Result<(), RegistryError> {
        let unknown = self.params.iter().find(|(name, _)| !known.contains(&name.as_str()));
        let Some((name, _)) = unknown else { return Ok(()) };
        let hint = match (nearest(name, known), known) {
            (Some(near), _) => format!("did you mean {near:?}?"),
            (None, []) => format!("{}: takes no parameters", self.scheme),
            (None, known) => format!("{}: knows {}", self.scheme, known.join(", ")),
        };
        Err(self.wrong(format!("unknown parameter {name:?}")).with_hint(hint))
    }

    /// An `is_invalid_uri` error about this URI, for what only its back end can check.
    pub fn wrong(&self, what: impl fmt::Display) -> RegistryError {
        RegistryError::invalid_uri(format!("invalid registry URI {:?}: {what}", self.shown))
    }
}

impl fmt::Display for RegistryUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RegistryUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegistryUri").field(&self.shown).finish()
    }
}

/// `place` with a port; `None` if it is no host with or without one.
fn host_and_port(place: &str, default_port: u16) -> Option<String> {
    let (host, port) = match place.rsplit_once(':') {
        // The last colon of an IPv6 address without a port is within its brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (place, default_port),
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

/// Replaces credentials by `***`. Works on text that may not be a URI at all, or one whose password
/// has characters that should have been encoded, since errors show that too. When in doubt it
/// hides more than needed: whatever stands between a colon and the last `@`.
fn redact(text: &str) -> String {
    let after_scheme = text.find(':').map_or(0, |colon| colon + 1);
    let (scheme, rest) = text.split_at(after_scheme);
    let visible = match rest.rsplit_once('@').map(|(before, after)| (before.split_once(':'), after))
    {
        Some((Some((user, _)), after)) => format!("{scheme}{user}:***@{after}"),
        _ => text.to_owned(),
    };
    let Some((before_query, query)) = visible.split_once('?') else { return visible };
    let mut shown = before_query.to_owned();
    for (n, pair) in query.split('&').enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => shown.extend([name, "=***"]),
            _ => shown.push_str(pair),
        }
    }
    shown
}

fn is_secret(name: &str) -> bool {
    // A name that hides behind percent signs is treated as a secret rather than decoded.
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "%"].iter().any(|mark| name.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_uri_leads_back_to_its_path() {
        for path in ["/tmp/a b", "/x%20?y#z", "relative/ä\t\u{a0}", "/"] {
            let uri = RegistryUri::parse(&file_uri(path).unwrap()).unwrap();
            assert_eq!((uri.scheme(), uri.path()), ("file", path));
        }
    }

    #[test]
    fn servers_are_checked_and_get_a_port() {
        let servers = |text: &str| parse(text).servers(7);
        assert_eq!(
            servers("x://a:1,b_c.d-e,[::1]:3,[::2]").unwrap(),
            ["a:1", "b_c.d-e:7", "[::1]:3", "[::2]:7"]
        );
        for bad in [
            "a,,b", "a,", "a:0", "a:x", "a:", "a:99999", ":1", "::1", "[::1", "[x]:1", "[]", "a b",
            "a%20", "a:1:2", "a,a", "a:7,a",
        ] {
            let error = servers(&format!("x://{bad}")).unwrap_err();
            assert!(error.is_invalid_uri(), "{bad}: {error}");
        }
        for none in ["x:", "x:///path", "x://me:word@"] {
            let error = servers(none).unwrap_err().to_string();
            assert!(error.contains("names no server") && error.contains("x://"), "{error}");
        }
    }

    fn parse(text: &str) -> RegistryUri {
        RegistryUri::parse(text).unwrap()
    }

    fn refused(text: &str, mention: &str) {
        let error = RegistryUri::parse(text).unwrap_err();
        assert!(error.is_invalid_uri());
        assert!(error.to_string().contains(mention), "{error} does not say {mention:?}");
    }

    #[test]
    fn every_part_is_found_and_decoded() {
        let uri = parse("ETCD://me:p%40ss@a:1,b:2/pre%20fix?x=1&y=%26&z");
        assert_eq!(uri.scheme(), "etcd");
        assert_eq!((uri.user(), uri.password()), (Some("me"), Some("p@ss")));
        assert_eq!((uri.authority(), uri.path()), (Some("a:1,b:2"), "/pre fix"));
        assert_eq!((uri.param("x"), uri.param("y")), (Some("1"), Some("&")));
        assert_eq!((uri.param("z"), uri.param("q")), (Some(""), None));
    }

    #[test]
    fn parts_may_be_missing() {
        let uri = parse("file:///tmp/x");
        assert_eq!((uri.authority(), uri.path()), (None, "/tmp/x"));
        assert_eq!(parse("file:./dir").path(), "./dir");
        assert_eq!((parse("memory:").path(), parse("memory:").authority()), ("", None));
    }

    #[test]
    fn credentials_are_never_shown() {
        for text in [
            "etcd://me:hunter2@h/p?token=hunter2&a=b",
            "etcd://me:hunter2@h/%zz",
            "etcd://me:hunter2@h#f",
            "no scheme://me:hunter2@h",
            "etcd://h/?auth_Password=hunter2&p%61ssword=hunter2",
            "etcd:/me:hunter2@h",
            "etcd://me:a/hunter2@h/p",
            "etcd://me:a?hunter2@h/p",
            "etcd://me:a@hunter2@h?token=hunter2",
        ] {
            let shown = match RegistryUri::parse(text) {
                Ok(uri) => format!("{uri} {uri:?} {}", uri.as_str()),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("***"), "{shown}");
        }
        assert_eq!(parse("file:///tmp/x?a=b&c").as_str(), "file:///tmp/x?a=b&c");
    }

    #[test]
    fn a_password_that_is_taken_for_a_server_is_not_shown_either() {
        for text in
            ["etcd://me:hunter2/x@h/p", "etcd://me:hunter2?x@h/p", "etcd://a:1,me:hunter2/x@h"]
        {
            let error = parse(text).servers(1).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(error.to_string().contains("%2F"), "{error}");
        }
        let error = parse("etcd://a:1,b:x/p").servers(1).unwrap_err();
        assert!(error.to_string().contains("\"b:x\" is not host:port"), "{error}");
    }

    #[test]
    fn errors_show_the_uri_and_what_is_wrong() {
        refused("/tmp/rpc", "does not start with a scheme");
        refused("/tmp/rpc", "\"/tmp/rpc\"");
        refused("", "scheme");
        refused("file:///a%2", "two hexadecimal digits");
        refused("file:///a%+1", "two hexadecimal digits");
        refused("file:///a%ff", "not UTF-8");
        refused("file:///a%00", "%00");
        refused("file:///a#b", "%23");
        refused("file:///a\n", "'\\n'");
        refused("file:///a?x=1&x=2", "given twice");
    }

    #[test]
    fn numbers_are_checked() {
        let uri = parse("file:/x?n=7&bad=7s&big=99999999999999999999");
        assert_eq!(uri.number("n", 1, 0..=10).unwrap(), 7);
        assert_eq!(uri.number("m", 1, 0..=10).unwrap(), 1);
        for (name, range) in [("n", 8..=10), ("bad", 0..=10), ("big", 0..=u64::MAX)] {
            assert!(uri.number(name, 1, range).unwrap_err().is_invalid_uri());
        }
    }

    #[test]
    fn a_misspelt_parameter_is_not_ignored() {
        let uri = parse("file:/x?lock_timout_ms=7");
        assert!(uri.expect_params(&["lock_timout_ms"]).is_ok());
        let error = uri.expect_params(&["lock_timeout_ms", "other"]).unwrap_err();
        assert!(error.to_string().contains("did you mean \"lock_timeout_ms\""), "{error}");
    }
}
