//! [`Rejected`]: instances of a list that are not followed, for messages.

use std::fmt;

use rpc_registry::{Instance, Printable};

use crate::error::RpcError;

/// Maximum distinct texts kept per kind. Further ones are counted.
const MAX_TEXTS: usize = 8;

/// Instances that are registered for a service but not followed, by reason.
#[derive(Default)]
pub(super) struct Rejected {
    /// Versions and groups that the contract does not accept.
    pub(super) versions: BoundedList,
    /// Schemes that the client does not follow.
    pub(super) schemes: BoundedList,
    /// Invalid addresses.
    pub(super) unusable: BoundedList,
    /// Instances beyond the client's limit.
    pub(super) over_limit: usize,
}

/// Why an instance is not followed.
pub(super) enum Reason {
    /// The contract does not accept its version or its group.
    Version,
    /// The client does not follow its scheme.
    Scheme,
    /// Its address is invalid.
    Address(RpcError),
}

impl Rejected {
    pub(super) fn add(&mut self, instance: &Instance, reason: &Reason) {
        match reason {
            Reason::Version => {
                let version = instance.version();
                self.versions.add(&match instance.group() {
                    "" => format!("version {version}"),
                    group => format!("version {version} in group {group}"),
                });
            }
            Reason::Scheme => self.schemes.add(scheme(instance)),
            Reason::Address(error) => self.unusable.add(error.message()),
        }
    }
}

/// The scheme of an instance's address.
pub(super) fn scheme(instance: &Instance) -> &str {
    instance.uri().split(':').next().unwrap_or_default()
}

/// A bounded number of distinct texts, in order of arrival.
#[derive(Default)]
pub(super) struct BoundedList {
    texts: Vec<String>,
    /// The number of all texts.
    count: usize,
    has_more: bool,
}

impl BoundedList {
    pub(super) fn add(&mut self, text: &str) {
        self.count = self.count.saturating_add(1);
        if self.texts.iter().any(|known| known == text) {
            return;
        }
        if self.texts.len() < MAX_TEXTS {
            self.texts.push(Printable(text).to_string());
        } else {
            self.has_more = true;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for BoundedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, text) in self.texts.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{text}")?;
        }
        if self.has_more { f.write_str(", …") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_makes_a_short_message() {
        let mut list = BoundedList::default();
        for n in 0..60_000 {
            list.add(&format!("version {}", n / 2));
        }
        assert_eq!(list.count(), 60_000);
        let text = list.to_string();
        assert!(
            text.starts_with("version 0, version 1, ") && text.ends_with("version 7, …"),
            "{text}"
        );
    }
}
