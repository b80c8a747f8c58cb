//! [`AnswerPings`].

use crate::pipeline::{ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::{Frame, Header, Kind};

/// Pings are not answered while so many bytes of heartbeats wait to be written.
const MAX_PENDING: usize = 1 << 10;

/// Answers each ping with a pong of the same id, before any request of the batch is dispatched, so
/// that busy workers can't starve it.
#[derive(Debug, Default)]
pub struct AnswerPings;

impl ChannelHandler for AnswerPings {
    #[inline]
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        match frame.header.kind {
            // A peer that does not read its pongs must not fill the memory with them.
            Kind::Ping if ctx.heartbeat_bytes() >= MAX_PENDING => Ok(Flow::Stop),
            Kind::Ping => {
                ctx.write(Frame::bare(Header { id: frame.header.id, ..Header::new(Kind::Pong) }));
                Ok(Flow::Stop)
            }
            Kind::Pong => Ok(Flow::Stop),
            _ => Ok(Flow::Next),
        }
    }
}
