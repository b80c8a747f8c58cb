//! [`RegistryUri`]: the URI of a registry.
//!
//! | file | what |
//! | --- | --- |
//! | [`params`] | numbers and durations in parameters, unknown parameters |
//! | [`syntax`] | schemes, hosts and ports |
//! | [`redact`] | credentials are not shown |
//! | [`file`] | the URI of a folder |

mod file;
mod params;
mod redact;
mod syntax;

use std::fmt;

pub use self::file::file_uri;
use self::redact::redact;
use self::syntax::host_and_port;
pub(crate) use self::syntax::{is_scheme, split_scheme};
use crate::RegistryError;
use crate::percent::decode;

/// A parsed registry URI: `scheme://user:password@authority/path?name=value`.
///
/// [`connect`](crate::connect) passes one to the back end. Path, user, password and parameters are
/// percent-decoded. `Display` and `Debug` show no credentials: they replace the password, and the
/// value of each parameter whose name contains `password`, `secret` or `token`, by `***`.
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

impl RegistryUri {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`, with the URI and the reason.
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

    /// The part between `//`, or the credentials, and the path: often a host and port, or a list of
    /// them. `None` if it is missing or empty.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The servers in the [authority](Self::authority), such as `a:1,b,[::1]:3`, as `host:port`.
    /// Servers without a port get `default_port`. In the order of the URI; at least one, no
    /// duplicates.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` if there is no server, or one is invalid or a duplicate.
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
                    // It is part of credentials with unencoded delimiters.
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

    /// The value of a parameter; empty if it is given without a value.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// An `is_invalid_uri` error about this URI, for the checks of a back end.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
