//! [`RefuseUnknown`]: error frames for input that cannot be understood.

use crate::error::RpcError;
use crate::pipeline::{ChannelContext, ChannelHandler, Flow, Handled};
use crate::protocol::{Frame, Kind, error_frame};

/// Answers input that this version does not understand with an error frame. After a frame of an
/// unknown kind, the connection stays open. After invalid bytes or another version of the protocol,
/// it closes.
#[derive(Debug, Default)]
pub struct RefuseUnknown;

impl ChannelHandler for RefuseUnknown {
    #[inline]
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        let number = match frame.header.kind {
            Kind::Unknown(number) => number,
            _ => return Ok(Flow::Next),
        };
        // A peer that does not read gets no further errors.
        if ctx.is_writable() {
            let error =
                RpcError::protocol(format!("frames of kind {number} are not understood here"));
            ctx.write(error_frame(frame.header.id, &error));
        }
        Ok(Flow::Stop)
    }

    fn exception_caught(&mut self, ctx: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
        if error.is_protocol() {
            ctx.write(error_frame(0, error));
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::pipeline::{Change, EmbeddedChannel};
    use crate::protocol::{Header, payload};

    fn channel() -> EmbeddedChannel {
        let mut channel = EmbeddedChannel::new(Instant::now());
        channel.change(Change::add_last(None, RefuseUnknown)).unwrap();
        channel
    }

    #[test]
    fn an_unknown_kind_is_answered_and_the_connection_goes_on() {
        let mut channel = channel();
        channel.write_inbound(Frame::bare(Header { id: 7, ..Header::new(Kind::Unknown(99)) }));
        let answer = channel.read_outbound().unwrap();
        assert_eq!((answer.header.kind, answer.header.id), (Kind::Error, 7));
        let error: RpcError = payload::decode(answer.body.as_slice()).unwrap();
        assert!(error.message().contains("kind 99"), "{error}");
        assert!(channel.pipeline().closing().is_none());
        assert!(channel.read_inbound().is_none());
    }

    #[test]
    fn another_version_is_answered_before_the_connection_closes() {
        let mut channel = channel();
        channel.write_inbound_bytes(b"RP\x02");
        let error: RpcError =
            payload::decode(channel.read_outbound().unwrap().body.as_slice()).unwrap();
        assert!(error.is_protocol() && error.message().contains("version 2"), "{error}");
        assert!(channel.pipeline().closing().is_some());
    }
}
