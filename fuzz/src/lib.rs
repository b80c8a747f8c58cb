//! The fuzz targets. Each is a function of untrusted bytes that panics when a promise is broken.
//! libFuzzer drives them (`fuzz/run`), and a test replays the corpora (`fuzz/corpus`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target that finds something panics"
)]

mod certificates;
mod client;
mod entries;
mod files;
mod frames;
mod input;
mod payloads;
mod pipeline;
mod server;
mod uris;
mod values;
mod zoo;

/// Maximum length of an input. Longer ones find nothing more and take longer.
pub const MAX_LEN: usize = 4_096;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also the name of its folder in the corpus.
    pub name: &'static str,
    run: fn(&[u8]),
    /// Maximum memory of one input, in bytes.
    memory: u64,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "frames", run: frames::run, memory: 1 << 20 },
    Target { name: "pipeline", run: pipeline::run, memory: 4 << 20 },
    Target { name: "values", run: values::run, memory: 64 << 20 },
    Target { name: "payloads", run: payloads::run, memory: 8 << 20 },
    Target { name: "server", run: server::run, memory: 32 << 20 },
    Target { name: "client", run: client::run, memory: 32 << 20 },
    Target { name: "files", run: files::run, memory: 4 << 20 },
    Target { name: "entries", run: entries::run, memory: 4 << 20 },
    Target { name: "uris", run: uris::run, memory: 1 << 20 },
    Target { name: "certificates", run: certificates::run, memory: 1 << 20 },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs it with an input.
    ///
    /// # Panics
    /// A promise is broken, such as the memory limit.
    pub fn run(&self, data: &[u8]) {
        let taken = allocation_counter::measure(|| (self.run)(data)).bytes_max;
        assert!(taken <= self.memory, "{} took {taken} bytes for {}", self.name, data.len());
    }
}
