//! Connections and providers that come and go: states, reconnection, restarts, unix sockets, event
//! loops.

mod event_loops;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod provider_outage;
mod rolling_restart;
mod several;
mod states;
mod subsets;
mod unix_sockets;

#[cfg(unix)]
use rpc_tests::process;

/// Not a test of its own: what the child processes run.
#[cfg(unix)]
#[test]
fn child() {
    match process::role().as_deref() {
        None => {}
        Some(provider_outage::PROVIDER) => provider_outage::provide(),
        Some(role) => processes::play(role),
    }
}
