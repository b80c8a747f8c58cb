//! [`Token`]: authenticates a client to name servers.

use std::fmt;

/// Maximum length of a token, in bytes.
pub(super) const MAX_TOKEN: usize = 4_096;

/// A token. `Debug` and messages do not show it.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn new(token: String) -> Result<Self, &'static str> {
        let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        match is_visible && (1..=MAX_TOKEN).contains(&token.len()) {
            true => Ok(Self(token)),
            false => Err("the token must have 1 to 4096 visible ASCII characters"),
        }
    }

    /// The metadata sent with each call.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
