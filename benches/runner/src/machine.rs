//! Machine, time and versions of a measurement.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The conditions of a measurement.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Circumstances {
    pub(crate) date: String,
    /// The commit of this framework.
    pub(crate) revision: String,
    pub(crate) machine: String,
    pub(crate) rustc: String,
    /// The compared crates and common dependencies, with their versions.
    pub(crate) versions: Vec<(String, String)>,
}

const CRATES: &[&str] = &[
    "tarpc",
    "tonic",
    "prost",
    "volo-thrift",
    "pilota",
    "capnp-rpc",
    "ttrpc",
    "protobuf",
    "rmp-serde",
    "tokio",
];

impl Circumstances {
    /// The current conditions. Values that cannot be determined are "unknown".
    pub(crate) fn now() -> Self {
        Self {
            date: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M %:z").to_string(),
            revision: output("git", &["describe", "--always", "--dirty"]),
            machine: machine(),
            rustc: output("rustc", &["--version"]),
            versions: versions(include_str!("../../Cargo.lock")),
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

fn machine() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    format!("{cores} cores of {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// The versions of [`CRATES`] in a lock file. If there are several, the last one, which is the
/// newest.
fn versions(lock: &str) -> Vec<(String, String)> {
    let version = |name: &str| {
        let quoted = format!("name = \"{name}\"\nversion = \"");
        let (_, rest) = lock.rsplit_once(&quoted)?;
        Some((name.to_owned(), rest.split('"').next()?.to_owned()))
    };
    CRATES.iter().filter_map(|name| version(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_file() {
        let lock = "[[package]]\nname = \"tokio\"\nversion = \"1.2.3\"\n";
        assert_eq!(versions(lock), [("tokio".into(), "1.2.3".into())]);
    }
}
