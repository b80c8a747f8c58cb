//! Many connections with heartbeats only.

use std::time::Duration;

use harness::{Result, Usage, resident_bytes};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rpc_runtime::{Client, Heartbeat};

use crate::ServerProcess;

pub(crate) const CONNECTIONS: usize = 10_000;
/// Duration of the measurement of CPU time.
const WINDOW: Duration = Duration::from_secs(20);
/// Time until memory for connecting is freed.
const SETTLE: Duration = Duration::from_secs(3);
const INTERVALS: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(10), Duration::from_secs(2)];

/// Raises the limit of open files. Each connection needs a file at both ends.
pub(crate) fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

pub(crate) async fn measure() -> Result<()> {
    allow_many_files()?;
    println!();
    println!("| interval | connections | server: CPU | client: CPU | server: KiB for each |");
    println!("| --- | --: | --: | --: | --: |");
    for interval in INTERVALS {
        let server = ServerProcess::start(interval)?;
        let heartbeat = Heartbeat::default().interval(interval).timeout(3 * interval);
        let before = resident_bytes(server.child.id())?;
        let mut clients = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let client = Client::builder().heartbeat(heartbeat).connect(&server.uri).await?;
            clients.push(client);
        }
        tokio::time::sleep(SETTLE + interval.min(Duration::from_secs(10))).await;
        let memory = resident_bytes(server.child.id())?.saturating_sub(before);
        let start = Usage::now(server.child.id())?;
        tokio::time::sleep(WINDOW).await;
        let end = Usage::now(server.child.id())?;
        let seconds = end.at.duration_since(start.at).as_secs_f64();
        let lost = clients.iter().filter(|client| client.channels().len() != 1).count();
        if lost > 0 {
            return Err(format!("{lost} of the connections were lost").into());
        }
        println!(
            "| {} s | {CONNECTIONS} | {:.1} % of a core | {:.1} % of a core | {:.1} |",
            interval.as_secs(),
            100.0 * (end.server - start.server) / seconds,
            100.0 * (end.client - start.client) / seconds,
            memory as f64 / CONNECTIONS as f64 / 1024.0
        );
    }
    Ok(())
}
