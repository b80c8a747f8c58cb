//! [`Policy`]: who is known, and what each may do. No I/O.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::identity::{Caller, Hash, Identity, Name};
use super::quota::{Quota, QuotaOverrides};
use crate::contract::NameError;

/// More identities, or patterns of one, are a mistake.
const MAX_IDENTITIES: usize = 10_000;
const MAX_PATTERNS: usize = 10_000;
/// Longest name of an identity and longest pattern, in bytes.
const MAX_TEXT: usize = 255;

/// Which services a client may use, and how.
#[derive(Debug, Default)]
pub(super) struct Rights {
    register: Vec<Pattern>,
    remove: Vec<Pattern>,
    read: Vec<Pattern>,
}

impl Rights {
    /// Those of everybody where there is no policy.
    fn open() -> Self {
        let all = || vec![Pattern("*".to_owned())];
        Self { register: all(), remove: Vec::new(), read: all() }
    }

    pub(super) fn may_register(&self, service: &str) -> bool {
        self.register.iter().any(|it| it.matches(service))
    }

    /// Whether it may remove what others have registered.
    pub(super) fn may_remove(&self, service: &str) -> bool {
        self.remove.iter().any(|it| it.matches(service))
    }

    pub(super) fn may_read(&self, service: &str) -> bool {
        self.read.iter().any(|it| it.matches(service))
    }
}

/// Text in which each `*` stands for any characters, also none.
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
            // The first place is as good as any: what follows has the more text left.
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
            "the {what} {text:?} is not of 1 to {MAX_TEXT} bytes without control characters"
        )),
        false => Ok(()),
    }
}

/// Who is known to a name server, and what each may do.
#[derive(Debug)]
pub(super) struct Policy {
    identities: Vec<Known>,
    /// By the hash of a token, which of the identities.
    tokens: HashMap<Hash, usize>,
    /// What is allowed to those who have proved nothing.
    anonymous: Arc<Rights>,
    anonymous_quota: Quota,
    /// Whether there are rules at all. Without, a certificate is a name and gives no other rights.
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
    /// Without rules: everybody may register and read everything.
    pub(super) fn open(quota: Quota) -> Self {
        Self {
            identities: Vec::new(),
            tokens: HashMap::new(),
            anonymous: Arc::new(Rights::open()),
            anonymous_quota: quota,
            is_open: true,
        }
    }

    /// Reads a policy file, with this quota where it names no other.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(text: &str, quota: Quota) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.identity.len() > MAX_IDENTITIES {
            return Err(format!("it has more than {MAX_IDENTITIES} identities"));
        }
        let mut tokens = HashMap::new();
        let mut identities: Vec<Known> = Vec::new();
        for (index, it) in file.identity.into_iter().enumerate() {
            let name = it.name;
            check_text("name of an identity", &name)?;
            if identities.iter().any(|known| known.name == name) {
                return Err(format!("the identity {name:?} is there twice"));
            }
            if it.dns.is_empty() && it.uri.is_empty() && it.token_sha256.is_empty() {
                return Err(format!(
                    "nobody can prove to be {name:?}: it needs dns, uri or token_sha256"
                ));
            }
            let patterns = [&it.dns, &it.uri, &it.register, &it.remove, &it.read];
            if patterns.iter().any(|list| list.len() > MAX_PATTERNS) {
                return Err(format!("{name:?} has a list of more than {MAX_PATTERNS} patterns"));
            }
            for text in &it.token_sha256 {
                let hash = parse_hash(text).ok_or_else(|| {
                    format!("a token_sha256 of {name:?} is not of 64 hexadecimal digits")
                })?;
                if tokens.insert(hash, index).is_some() {
                    return Err(format!("a token of {name:?} is there twice"));
                }
            }
            identities.push(Known {
                // Names of hosts are the same in capitals.
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

    /// Who this is. A token goes before a certificate.
    ///
    /// # Errors
    ///
    /// [`NameError::Denied`] for a token that is not known, or that was sent in clear.
    pub(super) fn identify(&self, caller: &Caller) -> Result<Identity, NameError> {
        if caller.is_token_exposed {
            return Err(NameError::Denied(
                "a token is accepted over tls, or from the same machine; this one was sent in \
                 clear, so replace it by a new one"
                    .to_owned(),
            ));
        }
        if let Some(token) = caller.token.filter(|_| !self.is_open) {
            // Looking up the hash tells nothing about the token by the time that it takes.
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

    /// The same client as one that has proved nothing.
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

    /// With the name that the certificate has: two workloads that one pattern matches are two.
    fn identity(&self, caller: &Caller, name: String) -> Identity {
        Identity::new(caller, Some(name), Arc::clone(&self.rights), self.quota)
    }
}

impl Name {
    fn to_text(&self) -> String {
        match self {
            Self::Uri(uri) => uri.clone(),
            Self::Dns(dns) => format!("dns:{dns}"),
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

/// A policy file as it is written.
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
