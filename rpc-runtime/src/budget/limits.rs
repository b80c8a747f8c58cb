//! [`MemoryLimits`]: limits of the memory that is held for peers.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::error::RpcError;
use crate::status::Status;

const MIB: usize = 1 << 20;
const CONNECTION: usize = 32 * MIB;
const ADDRESS: usize = 128 * MIB;
/// Assumed memory of a machine whose size is not known.
const ASSUMED_MEMORY: usize = 4 << 30;
/// Minimum of each limit: the free part of a connection.
const MIN_LIMIT: usize = 64 << 10;

/// Limits of the memory that a server or a client holds for its peers, in bytes: frames being read,
/// arguments of running requests, untaken stream items, and output that waits to be written.
///
/// 64 KiB of each connection do not count, so small calls work when a limit is reached. At a limit,
/// connections that hold more are not read until there is room. If nothing becomes free for 10 s,
/// the connection that holds the most is closed with an error that names the limit. A frame of any
/// size is accepted when nothing else is held.
///
/// The values that a method makes of its arguments, and its result until that is encoded, are the
/// application's memory and do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    connection: usize,
    address: usize,
    total: Option<usize>,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { connection: CONNECTION, address: ADDRESS, total: None }
    }
}

impl MemoryLimits {
    /// Sets the limit of one connection, in bytes. Default 32 MiB; at least 64 KiB, at most the
    /// limit of an address.
    #[must_use]
    pub fn connection(mut self, bytes: usize) -> Self {
        self.connection = bytes;
        self
    }

    /// Sets the limit of all connections of one IP address, in bytes. Default 128 MiB; at least 64
    /// KiB, at most the total. An IPv6 /64 counts as one address, and so do all peers on `unix:`
    /// and `memory:` together.
    ///
    /// Behind a proxy or address translation all peers have one address. Raise the limit there to
    /// what all of them may use together.
    #[must_use]
    pub fn address(mut self, bytes: usize) -> Self {
        self.address = bytes;
        self
    }

    /// Sets the limit of all connections of the server or the client, in bytes. Default: a quarter
    /// of the memory of the machine, or of its control group if that is less; at least 64 KiB.
    #[must_use]
    pub fn total(mut self, bytes: usize) -> Self {
        self.total = Some(bytes);
        self
    }

    pub(super) fn resolved(self) -> Limits {
        let total = self.total.unwrap_or(*MACHINE / 4).max(MIN_LIMIT);
        let address = self.address.max(MIN_LIMIT).min(total);
        Limits { connection: self.connection.max(MIN_LIMIT).min(address), address, total }
    }
}

/// A level at which bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Connection,
    /// All connections of one address.
    Address,
    /// All connections of the server, or of the client.
    Total,
}

impl Level {
    pub(super) const ALL: [Self; 3] = [Self::Connection, Self::Address, Self::Total];

    pub(super) fn above(self) -> Option<Self> {
        match self {
            Self::Connection => Some(Self::Address),
            Self::Address => Some(Self::Total),
            Self::Total => None,
        }
    }
}

/// Limits in bytes; none is above the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) connection: usize,
    pub(super) address: usize,
    pub(super) total: usize,
}

impl Limits {
    pub(super) fn of(&self, level: Level) -> usize {
        match level {
            Level::Connection => self.connection,
            Level::Address => self.address,
            Level::Total => self.total,
        }
    }

    /// The error of a connection that is closed because it held the most at that level.
    pub(super) fn exceeded(&self, level: Level) -> RpcError {
        let bytes = self.of(level);
        let (whose, setting) = match level {
            Level::Connection => ("one connection", "connection"),
            Level::Address => ("the connections of one address", "address"),
            Level::Total => ("all connections", "total"),
        };
        let why = format!(
            "the {bytes} bytes of memory for {whose} are used up and did not become free, and this \
             connection held the most (`MemoryLimits::{setting}`)"
        );
        RpcError::new(Status::Overloaded, why)
    }
}

/// Memory of this machine, or of its control group.
static MACHINE: LazyLock<usize> = LazyLock::new(|| {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut groups = vec![read("/sys/fs/cgroup/memory/memory.limit_in_bytes")];
    let own = read("/proc/self/cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // A group cannot use more memory than its parents.
    for group in Path::new(own).ancestors() {
        let limit = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        groups.push(fs::read_to_string(limit).unwrap_or_default());
    }
    memory(&read("/proc/meminfo"), &groups)
});

/// The minimum of the known values. A control group without a limit has `max`, or a number that
/// exceeds any machine.
fn memory(meminfo: &str, groups: &[String]) -> usize {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total.and_then(|total| total.trim().strip_suffix("kB"));
    let total = total.and_then(|total| total.trim().parse::<usize>().ok());
    let total = total.map(|kib| kib.saturating_mul(1024));
    let groups = groups.iter().filter_map(|group| group.trim().parse::<usize>().ok());
    groups.chain(total).filter(|bytes| *bytes > 0).min().unwrap_or(ASSUMED_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_what_the_process_may_use() {
        let meminfo = "MemTotal:        2048 kB\nMemFree:          100 kB\n";
        let none = || vec!["max\n".to_owned(), String::new()];
        assert_eq!(memory(meminfo, &none()), 2 * MIB);
        assert_eq!(memory(meminfo, &["1000\n".to_owned()]), 1_000);
        assert_eq!(memory(meminfo, &["9223372036854771712\n".to_owned()]), 2 * MIB);
        for damaged in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 0 kB", "MemTotal: 5"] {
            assert_eq!(memory(damaged, &none()), ASSUMED_MEMORY, "{damaged}");
        }
    }

    #[test]
    fn no_limit_is_above_the_one_over_it() {
        let limits = MemoryLimits::default().connection(9 * MIB).address(5 * MIB).total(MIB);
        assert_eq!(limits.resolved(), Limits { connection: MIB, address: MIB, total: MIB });
        let least = MemoryLimits::default().connection(0).address(0).total(0).resolved();
        assert_eq!(least, Limits { connection: MIN_LIMIT, address: MIN_LIMIT, total: MIN_LIMIT });
        let limits = MemoryLimits::default().resolved();
        assert!(limits.connection <= limits.address && limits.address <= limits.total);
    }
}
