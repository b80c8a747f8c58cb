//! [`Policy`]: the known identities and their rights. No I/O.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::identity::{Caller, Hash, Identity, Name};
use super::quota::{Quota, QuotaOverrides};
use crate::contract::NameError;

/// Maximum identities, and maximum patterns of one identity.
const MAX_IDENTITIES: usize = 10_000;
const MAX_PATTERNS: usize = 10_000;
/// Maximum length of an identity's name and of a pattern, in bytes.
const MAX_TEXT: usize = 255;

/// The rights of a client.
#[derive(Debug, Default)]
pub(super) struct Rights {
    register: Vec<Pattern>,
    remove: Vec<Pattern>,
    read: Vec<Pattern>,
}

impl Rights {
    /// The rights of every client without a policy.
    fn open() -> Self {
        let all = || vec![Pattern("*".to_owned())];
        Self { register: all(), remove: Vec::new(), read: all() }
    }

    pub(super) fn may_register(&self, service: &str) -> bool {
        self.register.iter().any(|it| it.matches(service))
    }

    /// Whether the client may remove registrations of others.
    pub(super) fn may_remove(&self, service: &str) -> bool {
        self.remove.iter().any(|it| it.matches(service))
    }

    pub(super) fn may_read(&self, service: &str) -> bool {
        self.read.iter().any(|it| it.matches(service))
    }
}

/// Text in which each `*` stands for any characters, or none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        check_text("pattern", &text)?;
        Ok(Self(text))
    }
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(start) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return text.ends_with(part);
            }
            // The first match is sufficient: it leaves the most text for the rest.
            let Some((_, after)) = text.split_once(part) else { return false };
            text = after;
        }
        true
    }
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    let is_bad = text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control);
    match is_bad {
        true => Err(format!(
            "the {what} {text:?} must have 1 to {MAX_TEXT} bytes and no control characters"
        )),
        false => Ok(()),
    }
}

/// The known identities of a name server and their rights.
#[derive(Debug)]
pub(super) struct Policy {
    identities: Vec<Known>,
    /// Index of the identity, by the hash of its token.
    tokens: HashMap<Hash, usize>,
    /// The rights of clients without authentication.
    anonymous: Arc<Rights>,
    anonymous_quota: Quota,
    /// Whether there is a policy. Without one, a certificate is only a name.
    is_open: bool,
}

#[derive(Debug)]
struct Known {
    name: String,
    dns: Vec<Pattern>,
    uris: Vec<Pattern>,
    rights: Arc<Rights>,
    quota: Quota,
}

impl Policy {
    /// No policy: every client may register and read everything.
    pub(super) fn open(quota: Quota) -> Self {
        Self {
            identities: Vec::new(),
            tokens: HashMap::new(),
            anonymous: Arc::new(Rights::open()),
            anonymous_quota: quota,
            is_open: true,
        }
    }

    /// Reads a policy. `quota` applies where the policy names none.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(text: &str, quota: Quota) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.identity.len() > MAX_IDENTITIES {
            return Err(format!("it has more than {MAX_IDENTITIES} identities"));
        }
        if file.identity.is_empty() && file.anonymous.is_none() {
            return Err("it is empty; an [anonymous] alone lets nobody do anything".to_owned());
        }
        let mut tokens = HashMap::new();
        let mut identities: Vec<Known> = Vec::new();
        for (index, it) in file.identity.into_iter().enumerate() {
            let name = it.name;
            check_text("name of an identity", &name)?;
            if identities.iter().any(|known| known.name == name) {
                return Err(format!("the identity {name:?} is defined twice"));
            }
            if it.dns.is_empty() && it.uri.is_empty() && it.token_sha256.is_empty() {
                return Err(format!(
                    "no client can authenticate as {name:?}: it needs dns, uri or token_sha256"
                ));
            }
            let patterns = [&it.dns, &it.uri, &it.register, &it.remove, &it.read];
            if patterns.iter().any(|list| list.len() > MAX_PATTERNS) {
                return Err(format!("{name:?} has a list of more than {MAX_PATTERNS} patterns"));
            }
            for text in &it.token_sha256 {
                let hash = parse_hash(text).ok_or_else(|| {
                    format!("a token_sha256 of {name:?} must have 64 hexadecimal digits")
                })?;
                if tokens.insert(hash, index).is_some() {
                    return Err(format!("a token of {name:?} is defined twice"));
                }
            }
            identities.push(Known {
                // Host names are case-insensitive.
                dns: it.dns.into_iter().map(|it| Pattern(it.0.to_ascii_lowercase())).collect(),
                uris: it.uri,
                rights: Rights { register: it.register, remove: it.remove, read: it.read }.into(),
                quota: it.quota.map_or(quota, |own| own.over(quota)),
                name,
            });
        }
        let anonymous = file.anonymous.unwrap_or_default();
        Ok(Self {
            identities,
            tokens,
            anonymous: Rights {
                register: anonymous.register,
                remove: Vec::new(),
                read: anonymous.read,
            }
            .into(),
            anonymous_quota: anonymous.quota.map_or(quota, |own| own.over(quota)),
            is_open: false,
        })
    }

    /// The identity of a caller. A token takes precedence over a certificate.
    ///
    /// # Errors
    ///
    /// [`NameError::Denied`] for a token that is unknown or was sent unencrypted.
    pub(super) fn identify(&self, caller: &Caller) -> Result<Identity, NameError> {
        if caller.is_token_exposed {
            return Err(NameError::Denied(
                "a token is accepted over tls, or from the same machine; this one was sent in \
                 clear, so replace it by a new one"
                    .to_owned(),
            ));
        }
        if let Some(token) = caller.token.filter(|_| !self.is_open) {
            // The time of looking up the hash reveals nothing about the token.
            let known = self.tokens.get(&token).and_then(|&index| self.identities.get(index));
            let known = known.ok_or_else(|| NameError::Denied("the token is not known".into()))?;
            return Ok(known.identity(caller, format!("{} (token)", known.name)));
        }
        for name in &caller.names {
            if self.is_open {
                let quota = self.anonymous_quota;
                let rights = Arc::clone(&self.anonymous);
                return Ok(Identity::new(caller, Some(name.to_text()), rights, quota));
            }
            if let Some(known) = self.identities.iter().find(|known| known.has(name)) {
                return Ok(known.identity(caller, format!("{} ({})", known.name, name.to_text())));
            }
        }
        Ok(self.anonymous(caller))
    }

    /// The same client without authentication.
    pub(super) fn anonymous(&self, caller: &Caller) -> Identity {
        Identity::new(caller, None, Arc::clone(&self.anonymous), self.anonymous_quota)
    }
}

impl Known {
    fn has(&self, name: &Name) -> bool {
        match name {
            Name::Uri(uri) => self.uris.iter().any(|it| it.matches(uri)),
            Name::Dns(dns) => self.dns.iter().any(|it| it.matches(&dns.to_ascii_lowercase())),
            Name::Subject(_) => false,
        }
    }

    /// With the certificate's own name: two workloads that match one pattern are two clients.
    fn identity(&self, caller: &Caller, name: String) -> Identity {
        Identity::new(caller, Some(name), Arc::clone(&self.rights), self.quota)
    }
}

impl Name {
    /// With the kind in front: the text is who a client is, and `dns:host` is a URI, too.
    fn to_text(&self) -> String {
        match self {
            Self::Uri(uri) => format!("uri:{uri}"),
            // Names of hosts are the same in capitals.
            Self::Dns(dns) => format!("dns:{}", dns.to_ascii_lowercase()),
            Self::Subject(subject) => format!("subject:{subject}"),
        }
    }
}

fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != hash.len().checked_mul(2)? || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (n, byte) in hash.iter_mut().enumerate() {
        let at = n.checked_mul(2)?;
        *byte = u8::from_str_radix(text.get(at..at.checked_add(2)?)?, 16).ok()?;
    }
    Some(hash)
}

/// The format of a policy file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    identity: Vec<FileIdentity>,
    anonymous: Option<FileAnonymous>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIdentity {
    name: String,
    #[serde(default)]
    dns: Vec<Pattern>,
    #[serde(default)]
    uri: Vec<Pattern>,
    #[serde(default)]
    token_sha256: Vec<String>,
    #[serde(default)]
    register: Vec<Pattern>,
    #[serde(default)]
    remove: Vec<Pattern>,
    #[serde(default)]
    read: Vec<Pattern>,
    quota: Option<QuotaOverrides>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAnonymous {
    #[serde(default)]
    register: Vec<Pattern>,
    #[serde(default)]
    read: Vec<Pattern>,
    quota: Option<QuotaOverrides>,
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
