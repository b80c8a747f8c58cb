//! One connection: its state, its channel and its driver.
//!
//! [`Channel`] is the lock of a connection's state and the one place that changes it and applies
//! what a change asks for. Whoever holds the lock runs the pipeline: Netty's rule that a channel
//! belongs to one event loop, without the hop. The lock is short, is never held across a system
//! call, and no user code runs under it but the pipeline's handlers.
//!
//! # How bytes leave
//!
//! Frames gather in the pipeline's output. This holds whenever the lock is free: **while the output
//! is not empty, a flush is promised, or a writer is active, which looks again before it stops.**
//! When the operating system takes no more, the driver writes the rest; it counts as the writer
//! until then. The driver's own turn is the exception: it flushes before it ends.
//!
//! A promise is kept in the same update, or by a `FlushPromise`: dropping it flushes, so a caller
//! that is cancelled between its promise and its flush still keeps it. A caller that is neither
//! polled nor dropped would hold up everybody's frames, so the driver looks after it.
//!
//! # Ends
//!
//! The ways to end a connection are in the module `ends`, with a table.

mod answers;
mod buffer_pool;
mod busy;
mod call;
mod channel;
mod clock;
mod close;
pub(crate) mod driver;
mod ends;
#[cfg(test)]
mod explore;
mod flush_promise;
mod handle;
pub(crate) mod in_flight;
mod incoming_stream;
mod largest_answer;
mod lost;
mod memory;
mod outgoing_stream;
mod pace;
mod pump;
mod read_buffer;
mod read_gate;
mod remote_error;
mod settings;
mod state;
mod streams;
mod sync;
mod timers;
mod unwritten;
mod watch_interval;
mod watchdog;
mod writer;

pub(crate) use self::busy::count_cores;
pub(crate) use self::call::{Call as Exchange, Reply};
pub(crate) use self::channel::Channel;
pub(crate) use self::clock::clock;
pub(crate) use self::close::refuse;
pub use self::handle::ChannelHandle;
pub(crate) use self::incoming_stream::IncomingStream;
pub(crate) use self::largest_answer::LargestAnswer;
pub(crate) use self::pump::pump;
pub(crate) use self::remote_error::read_error;
pub(crate) use self::settings::{
    ChannelSettings, Initializer, MAX_CONTROL, MIN_SLOW_READER_TIMEOUT,
};
pub(crate) use self::state::{CallError, Request, WorkId};
