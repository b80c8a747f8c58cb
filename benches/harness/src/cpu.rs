//! CPU time and memory of processes, from `/proc`.

use std::fs;
use std::time::Instant;

use crate::Result;

/// The kernel's unit of CPU time in `/proc`, on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time at a point in time. A measurement is the difference of two.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// When it was taken.
    pub at: Instant,
    /// CPU seconds of this process.
    pub client: f64,
    /// CPU seconds of the server.
    pub server: f64,
    /// CPU seconds of everything on this machine.
    pub machine: f64,
    /// CPU seconds that the hypervisor gave to others.
    pub stolen: f64,
}

impl Usage {
    /// The CPU time so far of this process, of the process `server` (0 for none), and of all.
    pub fn now(server: u32) -> Result<Self> {
        let (machine, stolen) = machine()?;
        let server = if server == 0 { 0.0 } else { process(server)? };
        Ok(Self {
            at: Instant::now(),
            client: process(std::process::id())?,
            server,
            machine,
            stolen,
        })
    }
}

/// Bytes of memory that a process has in use.
pub fn resident_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

fn process(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may contain any text, so the fields are read after its end.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = numbers(fields.split_whitespace().skip(11).take(2))?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn machine() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks = numbers(line.split_whitespace().skip(1).take(8))?;
    let [user, nice, system, _idle, _io_wait, irq, soft_irq, stolen] = ticks[..] else {
        return Err("/proc/stat has too few fields".into());
    };
    Ok(((user + nice + system + irq + soft_irq) / TICKS_PER_SECOND, stolen / TICKS_PER_SECOND))
}

fn numbers<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Vec<f64>> {
    fields.map(|field| Ok(field.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_this_process_burns_is_seen() {
        let before = Usage::now(0).unwrap();
        while before.at.elapsed().as_millis() < 200 {
            std::hint::black_box(0);
        }
        let after = Usage::now(0).unwrap();
        assert!(after.client - before.client >= 0.05);
        assert!(after.machine - before.machine >= 0.05);
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 16);
    }
}
