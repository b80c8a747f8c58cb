//! Memory of a server per idle connection.

use std::thread::sleep;
use std::time::Duration;

use harness::{Result, Role, resident_bytes};

use crate::contestants::{Contestant, Kind};
use crate::process::{Process, Programs, Run, Server, option, unless_it_fails};
use crate::results::Memory;

/// Numbers of open connections.
const CONNECTIONS: [usize; 2] = [2_000, 10_000];
/// Maximum time to open all of them.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time in which a server can free memory that it needs only during work.
const SETTLE: Duration = Duration::from_millis(1_500);

pub(crate) fn measure(programs: &Programs, contestants: &[&Contestant]) -> Vec<Memory> {
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        for contestant in contestants.iter().filter(|contestant| contestant.kind != Kind::Limit) {
            let measured = per_connection(programs, contestant, connections);
            let measured = unless_it_fails("memory", contestant, measured);
            rows.extend(measured.map(|bytes| {
                println!("memory  {connections}  {:<30} {bytes:.0} bytes", contestant.name);
                Memory { contestant: contestant.name.into(), connections, bytes }
            }));
        }
    }
    rows
}

fn per_connection(programs: &Programs, contestant: &Contestant, connections: usize) -> Result<f64> {
    let server = Server::start(programs.command(Run::AsItIs, contestant, Role::Server))?;
    let mut command = programs.command(Run::AsItIs, contestant, Role::Idle);
    option(&mut command, "address", &server.address);
    // A small value is echoed, since only the remaining memory counts.
    option(&mut command, "workload", "text");
    option(&mut command, "connections", connections.to_string());
    let mut client = Process::start(command)?;

    client.line(PATIENCE)?;
    sleep(SETTLE);
    let before = resident_bytes(server.id())?;
    client.go_on()?;
    client.line(PATIENCE)?;
    sleep(SETTLE);
    let after = resident_bytes(server.id())?;
    client.finish(PATIENCE)?;
    server.stop()?;
    Ok((after as f64 - before as f64) / connections as f64)
}
