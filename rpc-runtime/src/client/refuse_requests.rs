//! [`RefuseRequests`].

use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use crate::connection::Channel;
use crate::connection::driver::{Batch, RequestHandler};
use crate::error::RpcError;
use crate::protocol::{Frame, Kind, error_answer};
use crate::status::Status;

/// The request handler of an end that provides nothing. It keeps what is to be dropped when the
/// connection has ended.
pub(super) struct RefuseRequests<T> {
    _until_the_end: T,
}

impl<T> RefuseRequests<T> {
    pub(super) fn new(until_the_end: T) -> Self {
        Self { _until_the_end: until_the_end }
    }
}

impl<T: Send + 'static> RequestHandler for RefuseRequests<T> {
    fn handle(&mut self, channel: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
        if !channel.is_writable() {
            // This end never stops reading, so it would keep all the answers that are not read.
            channel.fail(RpcError::protocol("the peer asks and does not read the answers"));
            return batch.now;
        }
        let error = RpcError::new(Status::NotFound, "this end provides no services").unexecuted();
        for request in batch.requests {
            drop(channel.incoming_stream(&request.header));
            if request.header.kind == Kind::Request {
                let (header, body) = error_answer(request.header.id, &error);
                channel.append_answers(std::iter::once(Frame::new(header, &body)), batch.now);
            }
        }
        batch.now
    }

    fn limits_reading(&self) -> bool {
        false
    }
}
