//! [`AnswerPings`].

use crate::pipeline::{ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::{Frame, Header, Kind};

/// Answers each ping with a pong of the same id, before any request of the batch is dispatched, so
/// that busy workers can't starve it.
#[derive(Debug, Default)]
pub struct AnswerPings;

impl ChannelHandler for AnswerPings {
    #[inline]
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        match frame.header.kind {
            // A congested peer has bytes to read as a sign of life; one that does not read them would
            // fill the memory with its pongs.
            Kind::Ping if !ctx.is_writable() => Ok(Flow::Stop),
            Kind::Ping => {
                ctx.write(Frame::bare(Header { id: frame.header.id, ..Header::new(Kind::Pong) }));
                Ok(Flow::Stop)
            }
            Kind::Pong => Ok(Flow::Stop),
            _ => Ok(Flow::Next),
        }
    }
}
