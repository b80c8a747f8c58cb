//! Calls per second, CPU time per call, latency.

use std::time::Duration;

use harness::report::Load;
use harness::{Result, Role};

use crate::contestants::Contestant;
use crate::process::{Programs, Run, Server, client, name_of, option, unless_it_fails};
use crate::results::Throughput;
use crate::settings::{SETTINGS, Setting};
use crate::{Options, matches};

/// The core to which both processes are pinned, if the setting says so.
const CORE: &str = "0";
/// Maximum time of a run beyond its duration.
const PATIENCE: Duration = Duration::from_secs(20);

/// In each setting, the contestants run in turns, so changes of the machine affect all of them.
pub(crate) fn measure(options: &Options, programs: &Programs) -> Vec<Throughput> {
    let mut rows = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| matches(&options.settings, setting.id)) {
        println!("{}", setting.title);
        let mut contestants = options.contestants();
        contestants.retain(|contestant| contestant.takes_part(setting));
        for round in 1..=options.rounds {
            contestants.retain(|contestant| {
                let measured = undisturbed(options, programs, setting, contestant);
                let measured = unless_it_fails(setting.id, contestant, measured);
                let goes_on = measured.is_some();
                rows.extend(measured.map(|(load, disturbed, repeated)| {
                    println!(
                        "  {round}  {:<30} {:>9.0} calls/s  p50 {:>8.1} µs  p99 {:>8.1} µs{}",
                        contestant.name,
                        load.calls as f64 / load.seconds,
                        load.p50,
                        load.p99,
                        if disturbed { "  disturbed" } else { "" },
                    );
                    let (setting, contestant) = (setting.id.into(), contestant.name.into());
                    Throughput { setting, contestant, round, disturbed, repeated, load }
                }));
                goes_on
            });
        }
    }
    rows
}

/// Runs, and repeats the run while other processes use too much of the machine. Returns whether the
/// last run was disturbed, and the number of repetitions.
fn undisturbed(
    options: &Options,
    programs: &Programs,
    setting: &Setting,
    contestant: &Contestant,
) -> Result<(Load, bool, u32)> {
    let mut repeated = 0;
    loop {
        let load = once(options, programs, setting, contestant)?;
        let disturbed = load.others + load.stolen > options.others;
        if !disturbed || repeated == options.repeats {
            return Ok((load, disturbed, repeated));
        }
        repeated += 1;
        eprintln!(
            "  {}: repeated, others took {:.2} cores",
            contestant.name,
            load.others + load.stolen
        );
    }
}

fn once(
    options: &Options,
    programs: &Programs,
    setting: &Setting,
    contestant: &Contestant,
) -> Result<Load> {
    let mut command = programs.command(Run::AsItIs, contestant, Role::Server);
    if setting.pinned {
        option(&mut command, "core", CORE);
    }
    let server = Server::start(command)?;

    let mut command = programs.command(Run::AsItIs, contestant, Role::Load);
    if setting.pinned {
        option(&mut command, "core", CORE);
    }
    option(&mut command, "address", &server.address);
    option(&mut command, "server-pid", server.id().to_string());
    option(&mut command, "workload", name_of(setting.workload));
    option(&mut command, "callers", setting.callers.to_string());
    option(&mut command, "connections", setting.connections.to_string());
    option(&mut command, "secs", options.secs.to_string());
    option(&mut command, "warm-up", options.warm_up.to_string());
    let patience = PATIENCE + Duration::from_secs_f64(options.secs + options.warm_up);
    let load = serde_json::from_str(&client(command, patience)?)?;
    server.stop()?;
    Ok(load)
}
