//! Runs the contestants against each other and writes the results.

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

/// Runs the framework, the limit and its peers on the same work, in turns, and writes
/// `results.md`, `results.json` and `results.svg`.
///
/// Everything takes about an hour; `--only`, `--settings` and `--contestants` take less. A part that
/// is not measured keeps its former results, with their date; one that is measured for some settings
/// or contestants loses those of the others, so give such a run an `--out` of its own.
#[derive(Debug, Parser)]
#[command(name = "benches/run", bin_name = "benches/run")]
struct Options {
    /// Where the results go.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
    /// What is measured; everything by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// Only contestants whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<String>,
    /// Only settings whose name contains one of these, such as `w1-64-1`.
    #[arg(long, value_delimiter = ',')]
    settings: Vec<String>,
    /// How often each contestant runs in each setting.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each of these runs.
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Seconds of load before each of them.
    #[arg(long, default_value_t = 0.7)]
    warm_up: f64,
    /// A run in which other processes took more cores than this is repeated.
    #[arg(long, default_value_t = 0.3)]
    others: f64,
    /// How often a run is repeated at most.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Write the results again without measuring.
    #[arg(long)]
    render: bool,
}

/// What can be measured.
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
    // Written after each part: what is measured is not lost when a later part is interrupted.
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
