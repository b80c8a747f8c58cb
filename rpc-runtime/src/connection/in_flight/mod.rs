//! The calls of one connection that wait: for their turn, or for their answer.
//!
//! A slab. An id is a slot's index and its generation, so a late answer to a call that is gone never
//! reaches the slot's next user. Deadlines are kept per slot; the slab is scanned when the earliest
//! may have passed. No I/O, no clock.

mod ends;
mod slots;
mod table;

pub(crate) use self::slots::Completion;
pub(crate) use self::table::{InFlight, Removed};
