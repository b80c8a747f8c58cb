//! Start and end of a contestant's process.

use std::process::ExitCode;

use clap::Parser;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::{Args, Result};

/// Reads the arguments, prepares the process, and runs the contestant. Prints errors.
pub fn main(run: fn(&Args) -> Result<()>) -> ExitCode {
    main_with(&Args::parse(), run)
}

/// Like [`main`], with parsed arguments.
pub fn main_with(args: &Args, run: fn(&Args) -> Result<()>) -> ExitCode {
    match prepare(args).and_then(|()| run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Threads inherit these settings, so this must run before the runtime starts.
fn prepare(args: &Args) -> Result<()> {
    if let Some(core) = args.core {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &cores)?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
