//! [`Policy`]: the known identities and their rights. No I/O.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::identity::{Caller, CertificateName, Hash, Identity};
use super::quota::{Quota, QuotaOverrides};
use super::rights::{Pattern, Rights, check_text};
use crate::contract::NameError;

/// Maximum identities, and maximum patterns of one identity.
const MAX_IDENTITIES: usize = 10_000;
const MAX_PATTERNS: usize = 10_000;

/// The known identities of a name server and their rights.
#[derive(Debug)]
pub(super) struct Policy {
    identities: Vec<IdentityRule>,
    /// Index of the identity, by the hash of its token.
    tokens: HashMap<Hash, usize>,
    /// The rights of clients without authentication.
    anonymous: Arc<Rights>,
    anonymous_quota: Quota,
    /// Whether there is a policy. Without one, a certificate is only a name.
    is_open: bool,
}

#[derive(Debug)]
struct IdentityRule {
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
    /// The reason why it is invalid.
    pub(super) fn parse(text: &str, quota: Quota) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.identity.len() > MAX_IDENTITIES {
            return Err(format!("it has more than {MAX_IDENTITIES} identities"));
        }
        if file.identity.is_empty() && file.anonymous.is_none() {
            return Err("it is empty; an [anonymous] alone lets nobody do anything".to_owned());
        }
        let mut tokens = HashMap::new();
        let mut identities: Vec<IdentityRule> = Vec::new();
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
            identities.push(IdentityRule {
                // Host names are case-insensitive.
                dns: it.dns.into_iter().map(Pattern::into_lowercase).collect(),
                uris: it.uri,
                rights: Rights::new(it.register, it.remove, it.read).into(),
                quota: it.quota.map_or(quota, |own| own.over(quota)),
                name,
            });
        }
        let anonymous = file.anonymous.unwrap_or_default();
        Ok(Self {
            identities,
            tokens,
            anonymous: Rights::new(anonymous.register, Vec::new(), anonymous.read).into(),
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

impl IdentityRule {
    fn has(&self, name: &CertificateName) -> bool {
        match name {
            CertificateName::Uri(uri) => self.uris.iter().any(|it| it.matches(uri)),
            CertificateName::Dns(dns) => {
                self.dns.iter().any(|it| it.matches(&dns.to_ascii_lowercase()))
            }
            CertificateName::Subject(_) => false,
        }
    }

    /// With the name of the certificate: two workloads that match one pattern are two clients.
    fn identity(&self, caller: &Caller, name: String) -> Identity {
        Identity::new(caller, Some(name), Arc::clone(&self.rights), self.quota)
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
