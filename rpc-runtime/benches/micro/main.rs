//! What the parts of a call cost, one module for each, so that a regression is found where it is.
//! CONTRIBUTING.md has the command. What a call costs between processes is measured by `benches/`
//! of the workspace.
//!
//! The clock is a little slower here than in production, since tests can stop it.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]

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
