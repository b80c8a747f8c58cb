//! Benchmarks of the parts of a call, one module for each part, to locate regressions.
//! CONTRIBUTING.md has the command. `benches/` of the workspace measures calls between processes.
//!
//! The clock is slightly slower here than in production, since the test feature of tokio can stop
//! it.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

mod call;
mod codec;
mod dispatch;
mod in_flight;
mod order;
mod payload;
mod pipeline;
mod shape;

fn main() {
    divan::main();
}
