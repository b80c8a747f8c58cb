//! Certificates and the names in them: names of any content become one line of text.

use rpc_runtime::__fuzz::{certificate_name, peer_certificate};

pub(crate) fn run(data: &[u8]) {
    let (read, data) = data.split_first().unwrap_or((&0, data));
    let text = match read % 2 {
        0 => certificate_name(data),
        _ => peer_certificate(data).map(|certificate| format!("{certificate:?}")),
    };
    if let Some(text) = text {
        assert!(!text.contains(char::is_control), "{text:?}");
        // A character is escaped with at most three bytes for each of its own.
        assert!(text.len() <= 2_000 + 6 * data.len());
    }
}
