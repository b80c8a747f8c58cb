//! [`Rights`]: the services that a client may register, remove and read. No I/O.

use serde::Deserialize;

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
    pub(super) fn new(register: Vec<Pattern>, remove: Vec<Pattern>, read: Vec<Pattern>) -> Self {
        Self { register, remove, read }
    }

    /// The rights of every client without a policy.
    pub(super) fn open() -> Self {
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
pub(super) struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        check_text("pattern", &text)?;
        Ok(Self(text))
    }
}

impl Pattern {
    pub(super) fn into_lowercase(self) -> Self {
        Self(self.0.to_ascii_lowercase())
    }

    pub(super) fn matches(&self, text: &str) -> bool {
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

pub(super) fn check_text(what: &str, text: &str) -> Result<(), String> {
    let is_bad = text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control);
    match is_bad {
        true => Err(format!(
            "the {what} {text:?} must have 1 to {MAX_TEXT} bytes and no control characters"
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*c", "abc", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
        ] {
            let pattern = Pattern(pattern.to_owned());
            assert_eq!(pattern.matches(text), expected, "{pattern:?} {text:?}");
        }
    }
}
