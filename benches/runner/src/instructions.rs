//! Instructions per call, at both ends, as callgrind counts them. Unlike times they differ little
//! from run to run, whatever else the machine does.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::work::Workload;
use harness::{Result, Role};

use crate::contestants::{Contestant, Kind};
use crate::process::{Programs, Run, Server, client, name_of, option, unless_it_fails};
use crate::results::PerCall;

/// Calls of the shorter run; the longer one has twice as many.
const CALLS: u64 = 2_048;
const CALLERS: [usize; 2] = [1, 64];
/// Runs of each contestant.
const RUNS: usize = 5;
/// Under callgrind everything takes some fifty times as long.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn measure(programs: &Programs, contestants: &[&Contestant]) -> Vec<PerCall> {
    let mut valgrind = Command::new("valgrind");
    if valgrind.arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("instructions: left out: there is no valgrind");
        return Vec::new();
    }
    let mut rows = Vec::new();
    for callers in CALLERS {
        for contestant in contestants.iter().filter(|contestant| is_counted(contestant)) {
            let measured = per_call(programs, contestant, callers);
            let measured = unless_it_fails("instructions", contestant, measured);
            rows.extend(measured.map(|(client, server)| {
                println!(
                    "instructions  {callers}  {:<30} client {client:.0}  server {server:.0}",
                    contestant.name
                );
                let (contestant, workload) = (contestant.name.into(), Workload::Order);
                PerCall { contestant, workload, callers, client, server }
            }));
        }
    }
    rows
}

fn is_counted(contestant: &Contestant) -> bool {
    matches!(contestant.kind, Kind::Ours | Kind::Prototype)
}

fn per_call(programs: &Programs, contestant: &Contestant, callers: usize) -> Result<(f64, f64)> {
    let (client, server) = least(programs, contestant, callers, CALLS)?;
    let (client_twice, server_twice) = least(programs, contestant, callers, 2 * CALLS)?;
    Ok(((client_twice - client) / CALLS as f64, (server_twice - server) / CALLS as f64))
}

/// The minimum of some runs. Under callgrind, a server may treat a method as slow and do additional
/// work for it.
fn least(
    programs: &Programs,
    contestant: &Contestant,
    callers: usize,
    calls: u64,
) -> Result<(f64, f64)> {
    let mut least = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        let (client, server) = total(programs, contestant, callers, calls)?;
        least = (least.0.min(client), least.1.min(server));
    }
    Ok(least)
}

fn total(
    programs: &Programs,
    contestant: &Contestant,
    callers: usize,
    calls: u64,
) -> Result<(f64, f64)> {
    let of = |end: &str| {
        std::env::temp_dir().join(format!("callgrind-{}-{end}.out", std::process::id()))
    };
    let (client_file, server_file) = (of("client"), of("server"));
    let counted = (|| {
        let run = Run::Callgrind(&server_file);
        let server = Server::start(programs.on_one_thread(run, contestant, Role::Server))?;
        let run = Run::Callgrind(&client_file);
        let mut command = programs.on_one_thread(run, contestant, Role::Calls);
        option(&mut command, "address", &server.address);
        option(&mut command, "workload", name_of(Workload::Order));
        option(&mut command, "callers", callers.to_string());
        option(&mut command, "calls", calls.to_string());
        client(command, PATIENCE)?;
        server.stop()?;
        Ok((instructions(&client_file)?, instructions(&server_file)?))
    })();
    for file in [client_file, server_file] {
        // The file may not exist.
        let _ = fs::remove_file(file);
    }
    counted
}

/// The total that callgrind wrote.
fn instructions(file: &Path) -> Result<f64> {
    let text = fs::read_to_string(file)?;
    let total = |line: &str| {
        line.strip_prefix("totals: ").or(line.strip_prefix("summary: "))?.trim().parse().ok()
    };
    text.lines().find_map(total).ok_or_else(|| "callgrind wrote no total".into())
}
