//! Name servers and their clients.

mod calls;
mod common;
mod conformance;
mod earlier_version;
mod hostile;
mod memory;
mod program;
mod servers;
mod trust;
mod virtual_time;
