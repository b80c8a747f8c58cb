//! [`RequestHandler`]: who takes the requests of a connection.

use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::connection::channel::Channel;
use crate::connection::state::InWork;
use crate::protocol::Frame;

/// Maximum time of a turn of the driver, and of a batch that is polled in place. Checked between
/// batches, and between the requests of a batch.
pub(crate) const TURN: Duration = Duration::from_millis(1);

/// The requests that came together.
pub(crate) struct Batch<'a> {
    pub(crate) requests: Vec<Frame<'a>>,
    /// When they came.
    pub(crate) now: Instant,
    /// Requests of the connection that are in work already.
    pub(crate) in_work: usize,
    /// More is in work than there should be. Reading goes on then only while there are streams,
    /// whose items and credit come the same way.
    pub(crate) overloaded: bool,
    /// The answers are to leave in several writes.
    pub(crate) split: bool,
}

impl<'a> Batch<'a> {
    pub(super) fn new(requests: Vec<Frame<'a>>, now: Instant, in_work: InWork) -> Self {
        let InWork { requests: known, overloaded, split } = in_work;
        Self { requests, now, in_work: known, overloaded, split }
    }
}

/// Takes the requests of a connection, outside of the lock. Dropped when the connection has ended.
pub(crate) trait RequestHandler: Send + 'static {
    /// Answers that are ready at once are appended; the driver flushes them. Returns the time.
    fn handle(&mut self, channel: &Arc<Channel>, batch: Batch<'_>, cx: &mut Context<'_>)
    -> Instant;

    /// Whether reading stops while too much is in work or waits to be written. An end that only
    /// calls must go on reading, or two congested ends would wait for each other.
    fn limits_reading(&self) -> bool;

    /// The connection rests: memory that is only kept for the next batch may go.
    fn shrink(&mut self) {}
}
