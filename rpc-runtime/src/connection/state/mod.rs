//! The state of a connection, as a state machine.
//!
//! Inputs change it: calls that begin or are dropped, answers that are ready, bytes that were read,
//! room to write, time. What is to be done about a change is in the [`Effects`], for `Channel` to
//! apply once the lock is released. There is no I/O here and no clock.
//!
//! | file | what |
//! | --- | --- |
//! | `machine` | all of the state; what every change ends with |
//! | `effects` | what a change asks for |
//! | `lifecycle`, `ends` | open, draining, closing, closed; the ways to an end |
//! | `flush_duty`, `flushing`, `output` | who writes the output; the output on its way |
//! | `driver_slot`, `turn` | how the driver is woken; what it does when it looks |
//! | `calls`, `requests`, `stream_items` | this end's calls; the peer's; the items of both |
//! | `tail`, `read`, `peer` | frames of the peer; a batch of them; what it said of itself |

mod calls;
mod driver_slot;
mod effects;
mod ends;
mod flush_duty;
mod flushing;
mod lifecycle;
mod machine;
#[cfg(test)]
mod model;
mod output;
mod peer;
mod read;
mod requests;
mod stream_items;
mod tail;
mod turn;
mod work;

pub(super) use self::calls::{Begun, timed_out};
pub(crate) use self::calls::{CallError, Request};
pub(super) use self::effects::Effects;
pub(super) use self::machine::ConnectionState;
pub(super) use self::output::Wrote;
pub(super) use self::read::{Consumed, InWork, Input, MAX_REQUESTS};
pub(super) use self::turn::ReadDemand;
pub(crate) use self::work::WorkId;
