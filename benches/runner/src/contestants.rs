//! The contestants.

use harness::Threads;
use harness::work::Workload;

use crate::settings::Setting;

/// A variant of a framework.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contestant {
    /// The name in the results.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) binary: &'static str,
    /// The binary's variant, at both ends.
    pub(crate) variant: &'static str,
    pub(crate) threads: Threads,
}

/// The role of a contestant in the comparison.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// The limit for a single caller.
    LimitAlone,
    /// The limit for many callers.
    Limit,
    /// A minimal RPC without the features of a framework.
    Prototype,
    Ours,
    Peer,
}

const fn two_threads(
    name: &'static str,
    kind: Kind,
    binary: &'static str,
    variant: &'static str,
) -> Contestant {
    Contestant { name, kind, binary, variant, threads: Threads::Two }
}

const fn one_thread(
    name: &'static str,
    kind: Kind,
    binary: &'static str,
    variant: &'static str,
) -> Contestant {
    Contestant { name, kind, binary, variant, threads: Threads::One }
}

/// All contestants, in the order of their runs.
pub(crate) const CONTESTANTS: &[Contestant] = &[
    two_threads("limit: raw ping-pong", Kind::LimitAlone, "raw", "ping-pong"),
    two_threads("limit: raw pipelined", Kind::Limit, "raw", "pipelined"),
    two_threads("prototype, bytes", Kind::Prototype, "prototype", "none"),
    two_threads("prototype, rmp-serde", Kind::Prototype, "prototype", "rmp"),
    two_threads("ours", Kind::Ours, "ours", "default"),
    two_threads("ours, always named", Kind::Ours, "ours", "named"),
    two_threads("ours, always compact", Kind::Ours, "ours", "compact"),
    two_threads("ours, metrics off", Kind::Ours, "ours", "unmetered"),
    two_threads("ours, metrics recorded", Kind::Ours, "ours", "recorded"),
    two_threads("tarpc, bincode", Kind::Peer, "peer-tarpc", "bincode"),
    two_threads("tarpc, MessagePack", Kind::Peer, "peer-tarpc", "messagepack"),
    two_threads("tarpc, bincode, in place", Kind::Peer, "peer-tarpc", "bincode-in-place"),
    two_threads("tarpc, MessagePack, in place", Kind::Peer, "peer-tarpc", "messagepack-in-place"),
    one_thread("tarpc, bincode, one thread", Kind::Peer, "peer-tarpc", "bincode"),
    two_threads("tonic", Kind::Peer, "peer-tonic", "default"),
    two_threads("volo-thrift, pooled", Kind::Peer, "peer-volo", "pooled"),
    two_threads("volo-thrift, multiplexed", Kind::Peer, "peer-volo", "multiplexed"),
    one_thread("capnp-rpc, one thread", Kind::Peer, "peer-capnp", "default"),
    two_threads("ttrpc", Kind::Peer, "peer-ttrpc", "default"),
];

impl Contestant {
    /// Whether this contestant supports the setting and its result is meaningful.
    pub(crate) fn takes_part(&self, setting: &Setting) -> bool {
        let echoes = matches!(setting.workload, Workload::Order | Workload::Text | Workload::Blob);
        match self.kind {
            Kind::LimitAlone => echoes && setting.callers == 1,
            Kind::Limit => echoes && setting.callers > 1,
            // Serialized bytes are those of the other form, in another frame.
            Kind::Prototype if self.variant == "rmp" => {
                echoes && setting.workload != Workload::Blob
            }
            Kind::Prototype => echoes,
            Kind::Ours | Kind::Peer => true,
        }
    }

    /// Whether it makes calls, rather than sending the same frame repeatedly.
    pub(crate) fn makes_calls(&self) -> bool {
        !matches!(self.kind, Kind::LimitAlone | Kind::Limit)
    }
}
