//! Each line at INFO and above that strangers can cause is limited: a look at the sources.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 3] = ["rpc-registry", "rpc-runtime", "rpc-nameserver"];

/// Lines that need no limit, by a part of their text, and why.
const UNLIMITED: &[(&str, &str)] = &[
    // Once for each life of something that the user made.
    ("serving", "once for each server"),
    ("nothing is provided", "once for each server"),
    ("shutting down", "once for each server"),
    ("shut down", "once for each server"),
    ("the server was dropped", "once for each server"),
    ("{message}", "once for each server, at its end"),
    ("the drain timeout has passed", "once for each server, at its end"),
    ("a second signal will not be noticed", "once for each server"),
    ("a method holds the thread of an event loop", "once for each server, at its end"),
    ("an event loop panicked", "once for each event loop"),
    ("the drain timeout of a client passed", "once for each client"),
    ("no watchdog for heartbeats could be started", "once for each process"),
    ("can't be watched through the operating system", "once for each folder"),
    // Told when a state changes, which only this machine or a trusted server can make it do.
    ("registrations can't be renewed", "at the first failure only"),
    ("the registry's cache can't be read", "once for each registry"),
    ("the registry's cache can't be written", "at the first failure only"),
    ("sessions of providers were not renewed", "at most one for each look, whatever has expired"),
    ("a new policy is in use", "once for each change of a file of the operator's"),
    ("the new policy is not applied", "once for each change of a file of the operator's"),
    ("the files were read again", "once for each signal of the operator's"),
    ("the files are not applied", "once for each signal of the operator's"),
    ("the certificates for name servers", "once a minute, for a file of the user's"),
    ("a name server is away", "after a pause that grows"),
    ("a name server is back", "after a pause that grows"),
];

#[test]
fn each_line_that_a_stranger_can_cause_passes_a_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut unlimited = Vec::new();
    let mut found = 0;
    for path in CRATES.iter().flat_map(|name| sources(&root.join(name).join("src"))) {
        let text = fs::read_to_string(&path).unwrap();
        for line in lines(&text) {
            found += 1;
            let is_allowed = UNLIMITED.iter().any(|(known, _)| line.contains(known));
            if !line.contains("held_back") && !is_allowed {
                unlimited.push(format!("{}: {line}", path.display()));
            }
        }
    }
    assert!(found > 10, "the lines are no longer found");
    assert!(
        unlimited.is_empty(),
        "these are not limited: write them with `rpc_registry::limited!`, or say in this test why \
         no stranger can cause them:\n{}",
        unlimited.join("\n")
    );
}

/// The calls of `tracing`'s macros at INFO and above.
fn lines(text: &str) -> Vec<&str> {
    let begins = ["tracing::warn!(", "tracing::info!(", "tracing::error!("];
    let starts = begins.iter().flat_map(|begin| text.match_indices(begin));
    starts.map(|(at, _)| &text[at..at + text[at..].find(");").unwrap_or(text.len() - at)]).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
