//! The pipeline and its handlers, without a socket and in virtual time.

mod change;
mod failure;
mod flow;
mod framing;
mod heartbeat;
mod heartbeat_simulation;
mod idle;
mod order;
