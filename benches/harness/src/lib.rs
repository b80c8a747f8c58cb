//! The common part of all contestants: arguments, workloads, load and measurements.
//!
//! A contestant is a library with one function, `run`, and a binary that calls it:
//!
//! ```no_run
//! # mod ours { pub fn run(_: &harness::Args) -> harness::Result<()> { Ok(()) } }
//! fn main() -> std::process::ExitCode {
//!     harness::main(ours::run)
//! }
//! ```
//!
//! `run` serves if the role is [`Role::Server`], and otherwise passes [`drive`] a way to connect.
//! So all contestants have the same arguments, workloads and output.

pub mod allocations;
mod args;
mod connection;
mod cpu;
mod histogram;
mod idle;
mod load;
mod process;
pub mod report;
mod server;
pub mod work;

pub use args::{Args, Role, Threads};
pub use connection::{Connection, LocalConnection, drive, drive_local};
pub use cpu::{Usage, resident_bytes};
pub use histogram::Histogram;
pub use load::{Window, report_load};
pub use process::{main, main_with};
pub use server::listening;

/// The result of fallible functions. An error ends the process, since an incomplete measurement is
/// useless.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
