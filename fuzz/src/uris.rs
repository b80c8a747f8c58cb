//! Addresses of registries and providers.

use std::time::Duration;

use rpc_registry::{RegistryUri, file_uri};
use rpc_runtime::__fuzz::parse_uri;

pub(crate) fn run(data: &[u8]) {
    let (kind, data) = data.split_first().unwrap_or((&0, data));
    let Ok(text) = str::from_utf8(data) else { return };
    match kind % 3 {
        0 => registry(text),
        1 => provider(text),
        _ => folder(text),
    }
}

fn registry(text: &str) {
    match RegistryUri::parse(text) {
        Ok(uri) => {
            assert!(!uri.scheme().is_empty());
            for known in ["lease", "cache", "user"] {
                let _ = uri.param(known);
                let _ = uri.duration(known, Duration::ZERO, Duration::ZERO..=Duration::MAX);
                let _ = uri.number(known, 2, 1..=10);
            }
            let _ = uri.expect_params(&["lease"]);
            for server in uri.servers(2379).unwrap_or_default() {
                assert!(server.contains(':'), "{server:?} has no port");
            }
            plain(uri.as_str());
            plain(&format!("{uri:?}"));
            plain(&uri.wrong("for a reason").to_string());
        }
        Err(error) => plain(&error.to_string()),
    }
}

fn provider(text: &str) {
    match parse_uri(text) {
        Ok((scheme, _)) => assert!(text.starts_with(&scheme) && !scheme.is_empty()),
        Err(error) => drop(error.to_string()),
    }
}

fn folder(path: &str) {
    let uri = file_uri(path).expect("it is UTF-8");
    if let Ok(uri) = RegistryUri::parse(&uri) {
        // Without the dot, a relative folder would be a short name.
        let written = uri.path().strip_prefix("./").unwrap_or(uri.path());
        let wanted = path.strip_prefix("./").unwrap_or(path);
        assert_eq!((uri.scheme(), written), ("file", wanted), "{uri:?}");
    }
}

/// Checks that the displayed text is one line.
fn plain(shown: &str) {
    assert!(!shown.contains(['\n', '\r', '\0', '\u{1b}']), "{shown:?}");
}
