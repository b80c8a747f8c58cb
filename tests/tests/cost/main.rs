//! What strangers can make a process spend: memory, processor time, and the time of others.
//!
//! The tests run one after the other, so that they do not affect each other's measurements: each
//! takes its [turn](rpc_tests::turn).
#![cfg(target_os = "linux")]

mod complexity;
mod decoding;
mod hostile_lists;
mod kept;
mod long_lists;
mod memory_attacks;
mod onslaught;
mod onslaught_chain;
mod onslaught_client;
mod onslaught_tls;
mod turns;

use rpc_tests::{process, victim};

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    match process::role().as_deref() {
        None => {}
        Some(decoding::SERVER) => decoding::play(),
        Some(role @ (memory_attacks::SERVER | memory_attacks::CLIENT)) => {
            memory_attacks::play(role);
        }
        Some(onslaught::STREAMS) => onslaught::serve_streams(),
        Some(hostile_lists::FOLLOWER) => hostile_lists::play(),
        Some(role @ (onslaught_chain::CHAIN | onslaught_chain::LAYERED)) => {
            onslaught_chain::play(role);
        }
        Some(onslaught_tls::SERVER) => onslaught_tls::play(),
        Some(turns::EVENT_LOOP) => turns::play(),
        Some(role) => victim::play(role),
    }
}
