//! The driver: the one task that reads a connection's socket, and the one that waits for it.
//!
//! It also writes what the operating system did not take at first, wakes for deadlines, and ends
//! the connection. Everything it does is a function of the channel's state and what the socket has,
//! looked at in one order, so a wake-up never needs to say what it is for.
//!
//! It registers its waker before it looks at anything that others may change, so no change is
//! missed.

mod faults;
mod look;
mod request_handler;
mod run;
mod task;

pub(crate) use self::request_handler::{Batch, RequestHandler, TURN};
pub(crate) use self::run::run;
