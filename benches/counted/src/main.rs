//! Any contestant, with an allocator that counts. The first argument is the contestant's binary;
//! the others are its arguments.

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use harness::{Args, Result, allocations};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    allocations::count_with(|| {
        let stats = ALLOCATOR.stats();
        (stats.allocations + stats.reallocations) as u64
    });
    let Some(run) = std::env::args().nth(1).as_deref().and_then(contestant) else {
        eprintln!("the first argument must name a contestant");
        return ExitCode::FAILURE;
    };
    harness::main_with(&Args::parse_from(std::env::args().skip(1)), run)
}

fn contestant(binary: &str) -> Option<fn(&Args) -> Result<()>> {
    Some(match binary {
        "ours" => ours::run,
        "prototype" => prototype::run,
        "peer-capnp" => peer_capnp::run,
        "peer-tarpc" => peer_tarpc::run,
        "peer-tonic" => peer_tonic::run,
        "peer-ttrpc" => peer_ttrpc::run,
        "peer-volo" => peer_volo::run,
        _ => return None,
    })
}
