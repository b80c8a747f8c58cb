//! The benchmark runner: measures all contestants and writes the results.

mod allocations;
mod chart;
mod contestants;
mod instructions;
mod machine;
mod markdown;
mod memory;
mod process;
mod proxy;
mod results;
mod settings;
mod statistics;
mod throughput;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use harness::Result;

use crate::contestants::{CONTESTANTS, Contestant};
use crate::process::Programs;
use crate::results::{Results, Section};

/// Runs the framework, the limits and the peers on the same work, in turns. Writes `results.md`,
/// `results.json` and `results.svg`.
///
/// A complete run takes about an hour; `--only`, `--settings` and `--contestants` reduce it. A part
/// that is not measured keeps its previous results with their date. A part that is measured for
/// some settings or contestants loses the results of the others, so use a separate `--out` for such
/// a run.
#[derive(Debug, Parser)]
#[command(name = "benches/run", bin_name = "benches/run")]
struct Options {
    /// The folder for the results.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
    /// The measurements; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// Only contestants whose names contain one of these texts.
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<String>,
    /// Only settings whose names contain one of these texts, such as `w1-64-1`.
    #[arg(long, value_delimiter = ',')]
    settings: Vec<String>,
    /// Runs of each contestant in each setting.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each run.
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Seconds of load before each run.
    #[arg(long, default_value_t = 0.7)]
    warm_up: f64,
    /// A run is repeated if other processes used more cores than this.
    #[arg(long, default_value_t = 0.3)]
    others: f64,
    /// Maximum repetitions of a run.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Write the results again without measuring.
    #[arg(long)]
    render: bool,
}

/// The measurements.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Measurement {
    /// Calls per second, CPU time per call, latency.
    Throughput,
    /// Allocations per call.
    Allocations,
    /// Bytes per call on the wire.
    Wire,
    /// Memory of a server per idle connection.
    Memory,
    /// Instructions per call; needs valgrind.
    Instructions,
}

impl Options {
    fn measures(&self, measurement: Measurement) -> bool {
        !self.render && (self.only.is_empty() || self.only.contains(&measurement))
    }

    fn contestants(&self) -> Vec<&'static Contestant> {
        let asked = |c: &&Contestant| matches(&self.contestants, c.name);
        CONTESTANTS.iter().filter(asked).collect()
    }
}

/// Whether `name` contains one of `parts`, or there are none.
fn matches(parts: &[String], name: &str) -> bool {
    parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let programs = Programs::beside_this_one()?;
    let contestants = options.contestants();
    let mut results = Results::read(&options.out)?;
    // Written after each part, so that an interruption does not lose the previous parts.
    if options.measures(Measurement::Throughput) {
        results.throughput = Some(Section::new(throughput::measure(options, &programs)));
        results.write(&options.out)?;
    }
    if options.measures(Measurement::Allocations) {
        results.allocations = Some(Section::new(allocations::measure(&programs, &contestants)));
        results.write(&options.out)?;
    }
    if options.measures(Measurement::Wire) {
        results.wire = Some(Section::new(wire::measure(&programs, &contestants)));
        results.write(&options.out)?;
    }
    if options.measures(Measurement::Memory) {
        results.memory = Some(Section::new(memory::measure(&programs, &contestants)));
        results.write(&options.out)?;
    }
    if options.measures(Measurement::Instructions) {
        results.instructions = Some(Section::new(instructions::measure(&programs, &contestants)));
    }
    results.write(&options.out)?;
    println!("written to {}", options.out.display());
    Ok(())
}
