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
            Kind::Ping => {
                ctx.write(Frame::bare(Header { id: frame.header.id, ..Header::new(Kind::Pong) }));
                Ok(Flow::Stop)
            }
            Kind::Pong => Ok(Flow::Stop),
            _ => Ok(Flow::Next),
        }
    }
}
