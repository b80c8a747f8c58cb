//! Allocations per call, at both ends.

use std::time::Duration;

use harness::report::Totals;
use harness::work::Workload;
use harness::{Result, Role};

use crate::contestants::Contestant;
use crate::process::{Programs, Run, Server, client, name_of, option, unless_it_fails};
use crate::results::PerCall;

/// Calls of the shorter run. The longer one has twice as many, so the difference contains no
/// one-time work.
const CALLS: u64 = 4_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn measure(programs: &Programs, contestants: &[&Contestant]) -> Vec<PerCall> {
    let mut rows = Vec::new();
    for workload in [Workload::Number, Workload::Order] {
        for contestant in contestants.iter().filter(|contestant| counts(contestant, workload)) {
            let measured = per_call(programs, contestant, workload);
            let measured = unless_it_fails("allocations", contestant, measured);
            rows.extend(measured.map(|(client, server)| {
                println!(
                    "allocations  {workload:?}  {:<30} client {client:.2}  server {server:.2}",
                    contestant.name
                );
                PerCall { contestant: contestant.name.into(), workload, callers: 1, client, server }
            }));
        }
    }
    rows
}

/// Without serialization, the workload `Number` does not exist.
fn counts(contestant: &Contestant, workload: Workload) -> bool {
    contestant.makes_calls() && (workload == Workload::Order || contestant.variant != "none")
}

fn per_call(
    programs: &Programs,
    contestant: &Contestant,
    workload: Workload,
) -> Result<(f64, f64)> {
    let (client, server) = total(programs, contestant, workload, CALLS)?;
    let (client_twice, server_twice) = total(programs, contestant, workload, 2 * CALLS)?;
    Ok(((client_twice - client) / CALLS as f64, (server_twice - server) / CALLS as f64))
}

fn total(
    programs: &Programs,
    contestant: &Contestant,
    workload: Workload,
    calls: u64,
) -> Result<(f64, f64)> {
    let server = Server::start(programs.on_one_thread(Run::Counted, contestant, Role::Server))?;
    let mut command = programs.on_one_thread(Run::Counted, contestant, Role::Calls);
    option(&mut command, "address", &server.address);
    option(&mut command, "workload", name_of(workload));
    option(&mut command, "calls", calls.to_string());
    let client: Totals = serde_json::from_str(&client(command, PATIENCE)?)?;
    let counted = |totals: Totals| totals.allocations.ok_or("it does not count");
    Ok((counted(client)? as f64, counted(server.stop()?)? as f64))
}
