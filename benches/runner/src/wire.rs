//! Bytes per call on the wire, in both directions.

use std::time::Duration;

use harness::work::Workload;
use harness::{Result, Role};

use crate::contestants::Contestant;
use crate::process::{Programs, Run, Server, client, name_of, option, unless_it_fails};
use crate::proxy::Proxy;
use crate::results::PerCall;

/// Calls of the shorter run; the longer one has twice as many.
const CALLS: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(60);

/// One caller and 64 callers: concurrent calls share some frames, such as credit.
const CALLERS: [usize; 2] = [1, 64];

pub(crate) fn measure(programs: &Programs, contestants: &[&Contestant]) -> Vec<PerCall> {
    let mut rows = Vec::new();
    for workload in [Workload::Order, Workload::Text] {
        for callers in CALLERS {
            for contestant in contestants.iter().filter(|contestant| contestant.makes_calls()) {
                let measured = per_call(programs, contestant, workload, callers);
                let measured = unless_it_fails("bytes on the wire", contestant, measured);
                rows.extend(measured.map(|(client, server)| {
                    println!(
                        "bytes  {workload:?}, {callers}  {:<30} there {client:.1}  back {server:.1}",
                        contestant.name
                    );
                    let contestant = contestant.name.into();
                    PerCall { contestant, workload, callers, client, server }
                }));
            }
        }
    }
    rows
}

fn per_call(
    programs: &Programs,
    contestant: &Contestant,
    workload: Workload,
    callers: usize,
) -> Result<(f64, f64)> {
    let server = Server::start(programs.command(Run::AsItIs, contestant, Role::Server))?;
    // All callers make the same number of calls.
    let calls = CALLS.next_multiple_of(callers as u64);
    let total = |calls: u64| -> Result<(u64, u64)> {
        let proxy = Proxy::to(server.address.parse()?)?;
        let mut command = programs.command(Run::AsItIs, contestant, Role::Calls);
        option(&mut command, "address", proxy.address.to_string());
        option(&mut command, "workload", name_of(workload));
        option(&mut command, "callers", callers.to_string());
        option(&mut command, "calls", calls.to_string());
        client(command, PATIENCE)?;
        Ok(proxy.counted())
    };
    let (once, twice) = (total(calls)?, total(2 * calls)?);
    server.stop()?;
    let per_call = |twice: u64, once: u64| (twice as f64 - once as f64) / calls as f64;
    Ok((per_call(twice.0, once.0), per_call(twice.1, once.1)))
}
