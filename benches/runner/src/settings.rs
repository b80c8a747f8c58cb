//! The settings of the comparisons.

use harness::work::Workload;

/// A comparison: a workload, the number of callers and the number of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The short name, used for selection and in the results.
    pub(crate) id: &'static str,
    /// The title in the results.
    pub(crate) title: &'static str,
    pub(crate) workload: Workload,
    pub(crate) callers: usize,
    pub(crate) connections: usize,
    /// Whether both processes are pinned to one core.
    pub(crate) pinned: bool,
}

const fn setting(
    id: &'static str,
    title: &'static str,
    workload: Workload,
    callers: usize,
    connections: usize,
) -> Setting {
    Setting { id, title, workload, callers, connections, pinned: callers == 1 }
}

/// The setting with which the latencies of the mixed ones are compared.
pub(crate) const UNMIXED: &str = "w1-64-1";

/// All settings, in the order of the results.
pub(crate) const SETTINGS: &[Setting] = &[
    setting("w1-1-1", "W1, 1 caller, both ends on one core", Workload::Order, 1, 1),
    setting(UNMIXED, "W1, 64 callers, 1 connection", Workload::Order, 64, 1),
    setting("w1-256-8", "W1, 256 callers, 8 connections", Workload::Order, 256, 8),
    setting("w2-1-1", "W2, 1 caller, both ends on one core", Workload::Text, 1, 1),
    setting("w2-64-1", "W2, 64 callers, 1 connection", Workload::Text, 64, 1),
    setting("w2-256-8", "W2, 256 callers, 8 connections", Workload::Text, 256, 8),
    setting("w3-4-1", "W3 (1 MiB), 4 callers, 1 connection", Workload::Blob, 4, 1),
    setting("wait-64-1", "the method awaits 1 ms, 64 callers, 1 connection", Workload::Wait, 64, 1),
    setting(
        "mixed-wait-64-1",
        "W1, 1 % awaits 20 ms, 64 callers, 1 connection",
        Workload::MixedWait,
        64,
        1,
    ),
    setting(
        "mixed-block-64-1",
        "W1, 1 % blocks 20 ms, 64 callers, 1 connection",
        Workload::MixedBlock,
        64,
        1,
    ),
];

impl Setting {
    /// Whether it has rare slow calls.
    pub(crate) fn is_mixed(&self) -> bool {
        matches!(self.workload, Workload::MixedWait | Workload::MixedBlock)
    }
}
