//! The arguments of all contestants.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::Result;
use crate::work::Workload;

/// The arguments of a contestant, with the same meaning for all of them.
#[derive(Clone, Debug, Parser)]
pub struct Args {
    /// The role of this process.
    #[arg(value_enum)]
    pub role: Role,
    /// The variant of the contestant, if it has several.
    #[arg(long, default_value = "default")]
    pub variant: String,
    /// The address of the server; port 0 for any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub address: SocketAddr,
    /// The tokio runtime.
    #[arg(long, value_enum, default_value = "two")]
    pub threads: Threads,
    /// Pin the process to this core.
    #[arg(long)]
    pub core: Option<usize>,
    /// The workload.
    #[arg(long, value_enum, default_value = "order")]
    pub workload: Workload,
    /// Number of callers. Each waits for its answer before it calls again.
    #[arg(long, default_value_t = 1)]
    pub callers: usize,
    /// Number of connections that the callers share, or that are opened and left idle.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Total number of calls of all callers, in the role `calls`.
    #[arg(long, default_value_t = 1_000)]
    pub calls: u64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 3.0)]
    pub secs: f64,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 0.7)]
    pub warm_up: f64,
    /// Process id of the server, to count its CPU time; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub server_pid: u32,
}

/// The role of a contestant's process.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Role {
    /// Prints its address and serves until its standard input ends.
    Server,
    /// Calls for a time, then reports throughput and latency.
    Load,
    /// Makes a number of calls and ends; for counts.
    Calls,
    /// Opens connections, makes one call on each, and keeps them open.
    Idle,
}

/// The tokio runtime of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Threads {
    /// The current-thread runtime.
    One,
    /// The multi-thread runtime with two workers.
    Two,
}

impl Args {
    /// Creates the selected runtime.
    pub fn runtime(&self) -> Result<Runtime> {
        let mut builder = match self.threads {
            Threads::One => Builder::new_current_thread(),
            Threads::Two => Builder::new_multi_thread(),
        };
        if self.threads == Threads::Two {
            builder.worker_threads(2);
        }
        Ok(builder.enable_all().build()?)
    }
}
