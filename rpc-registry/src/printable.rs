//! [`Printable`]: untrusted text, escaped for log lines and messages.

use std::fmt::{self, Write};

/// Maximum characters of a value that a [`Printable`] shows.
const MAX_SHOWN: usize = 1024;

/// Displays a value as one line: escaped, and cut after 1,024 characters of the value.
///
/// For text of a peer, a file or a registry in a log line or an error. Control characters, line
/// separators and characters that change the direction of text (bidirectional overrides, isolates
/// and marks) are escaped, such as `\n` or `\u{202e}`. Longer text ends with `…`. Backslashes are
/// not escaped.
///
/// ```
/// use rpc_registry::Printable;
///
/// let name = "orders\n2026-01-01 ERROR all is lost";
/// assert_eq!(Printable(name).to_string(), "orders\\n2026-01-01 ERROR all is lost");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut escaping = Escaping { out: f, left: MAX_SHOWN };
        match write!(escaping, "{}", self.0) {
            // The maximum is reached.
            Err(_) if escaping.left == 0 => f.write_char('…'),
            result => result,
        }
    }
}

/// `text` as [`Printable`] displays it, with at most `limit` characters before escaping. Not copied
/// if it needs no change.
#[doc(hidden)]
pub fn printable(text: String, limit: usize) -> String {
    if text.len() <= limit && text.chars().all(is_printable) {
        return text;
    }
    let mut out = String::new();
    let mut escaping = Escaping { out: &mut out, left: limit };
    if escaping.write_str(&text).is_err() {
        out.push('…');
    }
    out
}

/// Whether a character is displayed without an effect on the line.
#[doc(hidden)]
pub fn is_printable(c: char) -> bool {
    let acts = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !acts && !c.is_control()
}

/// Escapes the text that is written to it. Fails when the maximum is reached.
struct Escaping<'w, W> {
    out: &'w mut W,
    left: usize,
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.left = match self.left.checked_sub(1) {
                Some(left) => left,
                None => return Err(fmt::Error),
            };
            match is_printable(c) {
                true => self.out.write_char(c)?,
                false => write!(self.out, "{}", c.escape_default())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_a_line_is_escaped_and_the_rest_stays() {
        let shown = |text: &str| Printable(text).to_string();
        assert_eq!(shown("a\r\nb\u{1b}[2Jc"), "a\\r\\nb\\u{1b}[2Jc");
        assert_eq!(
            shown("\u{2028}\u{2029}\u{85}\u{202e}\u{2066}"),
            "\\u{2028}\\u{2029}\\u{85}\\u{202e}\\u{2066}"
        );
        for harmless in ["", "Größe: 5 µm", "数", "C:\\new", "`x` \"y\" 'z'"] {
            assert_eq!(shown(harmless), harmless);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_with_a_sign_of_it() {
        assert_eq!(Printable("ä".repeat(MAX_SHOWN)).to_string(), "ä".repeat(MAX_SHOWN));
        let cut = Printable("ä".repeat(1 << 20)).to_string();
        assert_eq!(cut, format!("{}…", "ä".repeat(MAX_SHOWN)));
        assert_eq!(printable("abc".to_owned(), 2), "ab…");
        assert_eq!(printable("abc".to_owned(), 3), "abc");
    }

    proptest! {
        #[test]
        fn nothing_comes_through_and_the_second_time_changes_nothing(text: String) {
            let once = printable(text, 64);
            prop_assert!(once.chars().all(is_printable));
            prop_assert!(once.chars().count() <= 64 * 8 + 1);
        }

        #[test]
        fn what_was_made_printable_stays_as_it_is(text: String) {
            let once = printable(text, 1 << 20);
            prop_assert_eq!(printable(once.clone(), 1 << 20), once);
        }
    }
}
