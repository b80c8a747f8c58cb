//! [`Pinger`]: a handler that sends pings regardless of traffic, and measures their round trips.
//!
//! The heartbeat handler sends none on a busy connection, so it cannot tell how long one would take.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Frame, Header, Kind};

/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(10);
/// Ids that the heartbeat handler does not use.
const FIRST_ID: u64 = 1 << 60;

/// The sender of the measured round trips.
#[derive(Clone)]
pub(crate) struct Pings(Sender<Duration>);

impl Pings {
    pub(crate) fn new() -> (Self, Receiver<Duration>) {
        let (sender, receiver) = channel();
        (Self(sender), receiver)
    }
}

pub(crate) struct Pinger {
    pings: Pings,
    id: u64,
    sent: Option<Instant>,
    next: Option<Instant>,
}

impl Pinger {
    /// Before all other handlers, so that it sees pongs first.
    pub(crate) fn first(pings: Pings) -> Change {
        Change::add_first("pinger", Self { pings, id: FIRST_ID, sent: None, next: None })
    }
}

impl ChannelHandler for Pinger {
    fn channel_active(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.next = ctx.now().checked_add(INTERVAL);
        Ok(Flow::Next)
    }

    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        if frame.header.kind != Kind::Pong || frame.header.id != self.id {
            return Ok(Flow::Next);
        }
        if let Some(sent) = self.sent.take() {
            // Fails if the receiver was dropped.
            let _ = self.pings.0.send(ctx.now().saturating_duration_since(sent));
            self.next = ctx.now().checked_add(INTERVAL);
        }
        Ok(Flow::Stop)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.id += 1;
        self.sent = Some(ctx.now());
        self.next = None;
        ctx.write(Frame::bare(Header { id: self.id, ..Header::new(Kind::Ping) }));
        Ok(Flow::Next)
    }
}
