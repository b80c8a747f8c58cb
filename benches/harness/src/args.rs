//! The arguments that every contestant takes.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::Result;
use crate::work::Workload;

/// The arguments of a contestant. Each means the same to all of them.
#[derive(Clone, Debug, Parser)]
pub struct Args {
    /// What this process does.
    #[arg(value_enum)]
    pub role: Role,
    /// Which form of the contestant, if it has several.
    #[arg(long, default_value = "default")]
    pub variant: String,
    /// Where the server listens (port 0: any that is free), and where the client connects.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub address: SocketAddr,
    /// Which of tokio's runtimes.
    #[arg(long, value_enum, default_value = "two")]
    pub threads: Threads,
    /// Keep to this core.
    #[arg(long)]
    pub core: Option<usize>,
    /// What is called.
    #[arg(long, value_enum, default_value = "order")]
    pub workload: Workload,
    /// How many callers there are. Each waits for its answer before it calls again.
    #[arg(long, default_value_t = 1)]
    pub callers: usize,
    /// How many connections the callers share, or how many are opened and left idle.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// How many calls all callers make together, in the role `calls`.
    #[arg(long, default_value_t = 1_000)]
    pub calls: u64,
    /// For how many seconds is measured.
    #[arg(long, default_value_t = 3.0)]
    pub secs: f64,
    /// How many seconds of load go before that.
    #[arg(long, default_value_t = 0.7)]
    pub warm_up: f64,
    /// The server's process, so that its CPU time is counted; 0: none.
    #[arg(long, default_value_t = 0)]
    pub server_pid: u32,
}

/// What a contestant's process does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Role {
    /// Prints where it listens and serves until its standard input ends.
    Server,
    /// Calls for a time and reports throughput and latency.
    Load,
    /// Makes a number of calls and ends; for what is counted and not timed.
    Calls,
    /// Opens connections, makes one call on each, and keeps them.
    Idle,
}

/// Which of tokio's runtimes a process uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Threads {
    /// The current-thread runtime.
    One,
    /// The multi-thread runtime with two workers.
    Two,
}

impl Args {
    /// The runtime that was asked for.
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
