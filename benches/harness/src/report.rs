//! The reports of the processes to the runner: one line of JSON each.

use serde::{Deserialize, Serialize};

use crate::Result;

/// The report of the role `load`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Load {
    /// Measured calls, without the slow ones of a mixed workload.
    pub calls: u64,
    /// Duration of the measurement, in seconds.
    pub seconds: f64,
    /// Median latency, in microseconds.
    pub p50: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99: f64,
    /// 99.9th percentile of the latency, in microseconds.
    pub p999: f64,
    /// Maximum latency, in microseconds.
    pub max: f64,
    /// CPU microseconds of the client for each call.
    pub client_cpu: f64,
    /// CPU microseconds of the server for each call.
    pub server_cpu: f64,
    /// Cores used by other processes of this machine meanwhile.
    pub others: f64,
    /// Cores that the hypervisor gave to other guests meanwhile.
    pub stolen: f64,
}

/// The report of a server and of the role `calls` at their end.
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
