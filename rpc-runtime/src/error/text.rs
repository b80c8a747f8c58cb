//! Texts of errors: printable, and of bounded length.

use rpc_registry::printable;
use serde::{Deserialize, Deserializer};

/// Maximum length of a text, in characters.
const MAX_TEXT: usize = 4096;

/// The text with control characters escaped, cut to the maximum length.
pub(super) fn bounded(text: impl Into<String>) -> String {
    printable(text.into(), MAX_TEXT)
}

/// Reads a text that a peer wrote.
pub(super) fn required<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    String::deserialize(d).map(bounded)
}

/// Reads a text that a peer may have written.
pub(super) fn optional<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(bounded))
}
