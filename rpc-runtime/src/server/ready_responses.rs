//! [`ReadyResponses`]: the responses of a batch, which are sent together.

use std::ops::Range;
use std::time::Instant;

use rpc_registry::limited;

use super::answers::{AnswerSize, no_memory};
use super::response;
use crate::budget::FREE;
use crate::buffer;
use crate::call::Context;
use crate::connection::Channel;
use crate::error::RpcError;
use crate::protocol::{Body, Frame, Header, KEPT_WHOLE, Kind, Output};
use crate::service::Finished;

/// Responses that are encoded and not yet given to the connection, in order.
#[derive(Default)]
pub(super) struct ReadyResponses {
    responses: Vec<(Header, ReadyBody)>,
    bodies: Output,
}

enum ReadyBody {
    /// Where it is in `bodies`.
    In(Range<usize>),
    /// A large one is not copied into the output.
    Whole(Body<'static>),
}

impl ReadyResponses {
    /// A batch begins: takes a buffer.
    pub(super) fn begin(&mut self) {
        self.bodies = buffer::take().into();
    }

    /// A batch has ended: gives the buffer back.
    pub(super) fn end(&mut self) {
        buffer::give_output(std::mem::take(&mut self.bodies));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.responses.len()
    }

    /// Where the body of the next response is encoded, behind those that are there.
    #[inline]
    pub(super) fn bodies(&mut self) -> &mut Output {
        &mut self.bodies
    }

    /// Checks that what was encoded behind `start` may be kept and sent, and puts the metadata of
    /// the reply in front of it.
    #[inline]
    pub(super) fn check(
        &mut self,
        channel: &Channel,
        answers: &AnswerSize,
        finished: &mut Finished,
        context: &mut Context,
        start: usize,
    ) -> Result<(), RpcError> {
        let bytes = self.bodies.len() - start;
        if bytes <= FREE {
            channel.largest_answer().add(0);
        } else {
            let bold = !answers.gave(channel.largest_answer(), bytes);
            if !channel.may_keep(bytes, bold) {
                return Err(no_memory(bytes));
            }
        }
        response::write_metadata(channel, finished, context, &mut self.bodies, start)
    }

    /// Adds a response whose body is what was encoded behind `start`.
    #[inline]
    pub(super) fn push(&mut self, header: Header, start: usize) {
        let end = self.bodies.len();
        let body = if end - start < KEPT_WHOLE {
            ReadyBody::In(start..end)
        } else {
            // Large ones before it were taken out like this.
            ReadyBody::Whole(self.bodies.split_off_small(start).into())
        };
        self.responses.push((header, body));
    }

    /// Adds the error response to a request.
    pub(super) fn fail(&mut self, channel: &Channel, request: &Header, error: &RpcError) {
        if request.kind == Kind::Oneway {
            limited!(warn, peer = %channel.peer(), %error, "a oneway request failed");
            return;
        }
        let (header, body) = response::error(channel, request.id, error);
        let start = self.bodies.len();
        self.bodies.extend_from_slice(&body);
        self.responses.push((header, ReadyBody::In(start..self.bodies.len())));
    }

    /// Gives all to the connection.
    pub(super) fn append(&mut self, channel: &Channel, now: Instant) {
        let Self { responses, bodies } = self;
        if responses.is_empty() {
            return;
        }
        let responses = responses.drain(..).map(|(header, body)| match body {
            ReadyBody::In(range) => {
                let bodies = bodies.single(0).unwrap_or_default();
                Frame::new(header, bodies.get(range).unwrap_or_default())
            }
            ReadyBody::Whole(body) => Frame { header, body },
        });
        channel.append_answers(responses, now);
        bodies.truncate(0);
    }

    /// Frees memory while the connection is idle.
    pub(super) fn shrink(&mut self) {
        self.responses = Vec::new();
    }
}
