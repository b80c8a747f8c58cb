//! What the processes tell the runner: one line of JSON each.

use serde::{Deserialize, Serialize};

use crate::Result;

/// What the role `load` reports.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Load {
    /// Calls that were made and measured; slow ones of a mixed workload are not.
    pub calls: u64,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Median latency, in microseconds.
    pub p50: f64,
    /// 99 of 100 calls took no longer, in microseconds.
    pub p99: f64,
    /// 999 of 1,000 calls took no longer, in microseconds.
    pub p999: f64,
    /// The longest, in microseconds.
    pub max: f64,
    /// CPU microseconds of the client for each call.
    pub client_cpu: f64,
    /// CPU microseconds of the server for each call.
    pub server_cpu: f64,
    /// Cores that other processes of this machine took meanwhile.
    pub others: f64,
    /// Cores that the hypervisor gave to others meanwhile.
    pub stolen: f64,
}

/// What a server and the role `calls` report at their end.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Totals {
    /// Allocations of the process, if it counts them.
    pub allocations: Option<u64>,
}

/// Prints one line of JSON.
pub fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
