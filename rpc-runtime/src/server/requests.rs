//! The requests of one connection, from their frames to their answers.
//!
//! A method is polled once in place, where its request was read: most are ready then, and the
//! answers of a read batch leave together. What waits goes on in a task of its own. (brpc does
//! the like: of n requests in one read, one is handled in place.) Methods that hold the thread are
//! found out and spawned from then on; contracts can say so beforehand.

use std::ops::Range;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use rpc_registry::limited;
use tracing::Span;

use super::answers::{no_memory, no_memory_for_arguments};
use super::connections::Place;
use super::dispatcher::{Dispatcher, Route};
use super::executor::Executor;
use super::large::{LARGE, LargeRequest, limits_in_place, over_memory};
use super::late::{Running, answer_failed, answer_header, caught};
use super::slow_methods::SlowMethods;
use super::workers::Workers;
use crate::budget::FREE;
use crate::buffer;
use crate::call::Context;
use crate::connection::driver::{Batch, RequestHandler, TURN};
use crate::connection::{Channel, clock};
use crate::descriptor::Dispatch;
use crate::error::RpcError;
use crate::observe::{self, OwnedCall, RefusedRequest};
use crate::protocol::payload::{self, Form};
use crate::protocol::{Body, Frame, Header, KEPT_WHOLE, Kind, Output};
use crate::service::{BoxCall, Finished, OverMemory, Request};
use crate::status::Status;

/// A method that holds the thread longer than this is not polled in place for the next calls.
const IN_PLACE_BUDGET: Duration = TURN;

/// The requests of one connection.
pub(super) struct Requests {
    dispatcher: Arc<Dispatcher>,
    /// Dropped before the executor, so that the permit is free when the server ends.
    _place: Place,
    executor: Executor,
    slow: SlowMethods,
    /// Ready answers, in order.
    answers: Vec<(Header, Gathered)>,
    bodies: Output,
}

/// The body of a ready answer.
enum Gathered {
    /// Where it is in `bodies`.
    In(Range<usize>),
    /// A large one is not copied into the output.
    Whole(Body<'static>),
}

/// A request that is known to be for a method that exists.
struct Accepted<'r, 'b> {
    route: &'r Route,
    request: Request<'b>,
    context: Context,
}

/// What the first poll gave.
enum Begun {
    Finished(Finished),
    /// It waits, or is not to be polled here.
    Running(BoxCall),
    /// Its arguments are to be decoded elsewhere.
    Large(OverMemory),
}

impl Requests {
    pub(super) fn new(dispatcher: Arc<Dispatcher>, place: Place, workers: &Arc<Workers>) -> Self {
        Self {
            dispatcher,
            executor: Executor::new(workers.of(place.owner().address), place.owner().connection),
            _place: place,
            slow: SlowMethods::default(),
            answers: Vec::new(),
            bodies: Output::default(),
        }
    }

    /// Finds the method, the context and the arguments.
    fn accept<'r, 'b>(
        dispatcher: &'r Dispatcher,
        channel: &Arc<Channel>,
        frame: &'b Frame<'_>,
        now: Instant,
    ) -> Result<Accepted<'r, 'b>, RpcError> {
        let header = &frame.header;
        // Taken first: it must be dropped if this comes to nothing.
        let stream = channel.incoming_stream(header);
        let Some(route) = dispatcher.route(header.method) else {
            return Err(RpcError::new(Status::NotFound, "the peer provides no such method"));
        };
        if let Body::TooLarge { limit } = frame.body {
            return Err(RpcError::new(
                Status::TooLarge,
                format!(
                    "payload of {} bytes is over the provider's limit of {limit} bytes",
                    header.length
                ),
            ));
        }
        if !header.flags.are_understood() {
            return Err(RpcError::protocol(format!(
                "{:?} is not all understood here",
                header.flags
            )));
        }
        let (metadata, arguments) = payload::split_metadata(header.flags, frame.body.as_slice())?;
        let deadline = match header.deadline_ms {
            0 => None,
            // Cannot overflow in the lifetime of a machine, but it is the peer's number.
            left => now.checked_add(Duration::from_millis(u64::from(left))),
        };
        let payload = match &frame.body {
            Body::Owned(payload) => Some(payload),
            _ => None,
        };
        let form = Form::of(header.flags);
        let limits = limits_in_place(channel.settings().decode, arguments.len());
        Ok(Accepted {
            route,
            request: Request { method: route.method, arguments, payload, form, limits, stream },
            context: Context {
                deadline,
                metadata: metadata.map(Arc::new),
                peer: Some(Arc::clone(channel.peer())),
                certificate: channel.peer_certificate().cloned(),
                ..Context::default()
            },
        })
    }

    /// Starts one request: answers it, or lets it go on in a task of its own. Says whether its
    /// method was polled here, and what time it is after that.
    fn start(
        &mut self,
        channel: &Arc<Channel>,
        frame: &Frame<'_>,
        now: Instant,
        in_place: bool,
        cx: &mut task::Context<'_>,
    ) -> (bool, Instant) {
        let header = frame.header;
        let accepted = match Self::accept(&self.dispatcher, channel, frame, now) {
            Ok(accepted) => accepted,
            Err(error) => {
                self.refuse(channel, &header, RefusedRequest::from_status(error.status()), error);
                return (false, clock());
            }
        };
        let Accepted { route, request, mut context } = accepted;
        let is_large = frame.body.len() >= LARGE;
        let answers = route.answers();
        let expected = answers.expected(channel.largest_answer());
        let mode = match route.mode() {
            Dispatch::Inline if !in_place || self.slow.spawns_next(header.method) => {
                Dispatch::Spawn
            }
            // The task waits until there is memory for the response.
            Dispatch::Inline if channel.must_wait(expected) => Dispatch::Spawn,
            mode => mode,
        };
        let in_place = mode == Dispatch::Inline && !is_large;
        let span = observe::server_call(route.method, header.id, channel.peer());
        route.metrics.iter().for_each(|metrics| metrics.began());
        let arguments = request.arguments.len();
        if is_large {
            let observed = OwnedCall::running(route.metrics.clone(), now, span);
            let large = LargeRequest::new(route, frame, arguments, request.stream, context);
            self.executor.decode_and_run(channel, &header, mode, observed, large);
            return (false, clock());
        }
        let inside = span.enter();
        let start = self.bodies.len();
        // The method's code begins with the first poll, its arguments' with the decoding.
        let begun = caught(route.method, channel, || {
            context.enter(|| {
                let mut call = match route.service.dispatch(request) {
                    Ok(call) => call,
                    Err(why) => {
                        let limits = channel.settings().decode;
                        return over_memory(why, limits, arguments).map(Begun::Large);
                    }
                };
                if !channel.may_begin(0, call.memory()) {
                    return Err(no_memory_for_arguments(call.memory()));
                }
                if !in_place {
                    return Ok(Begun::Running(call));
                }
                match call.poll_into(cx, &mut self.bodies) {
                    Poll::Ready(finished) => finished.map(Begun::Finished),
                    Poll::Pending => Ok(Begun::Running(call)),
                }
            })
        });
        drop(inside);
        let after = clock();
        let ended = |status| {
            if let Some(metrics) = &route.metrics {
                metrics.ended(status, after.saturating_duration_since(now));
            }
            observe::ended(&span, status);
        };
        match begun {
            Ok(Begun::Finished(finished)) => {
                let bytes = self.bodies.len() - start;
                if bytes <= FREE {
                    channel.largest_answer().add(0);
                } else {
                    let bold = !answers.gave(channel.largest_answer(), bytes);
                    if !channel.may_keep(bytes, bold) {
                        let error = no_memory(bytes);
                        ended(error.status());
                        self.bodies.truncate(start);
                        self.fail(channel, &header, &error);
                        return (in_place, after);
                    }
                }
                ended(finished.status);
                self.finish(channel, &header, finished, start, &span);
                if bytes > FREE {
                    // Counted before the next request begins.
                    self.append_answers(channel, after);
                }
            }
            Ok(Begun::Running(call)) => {
                let observed = OwnedCall::running(route.metrics.clone(), now, span);
                let answers = Arc::clone(answers);
                let running = Running { method: route.method, answers, context, call };
                self.executor.run(channel, &header, mode, observed, running);
            }
            Ok(Begun::Large(OverMemory { stream })) => {
                let observed = OwnedCall::running(route.metrics.clone(), now, span);
                let large = LargeRequest::new(route, frame, arguments, stream, context);
                self.executor.decode_and_run(channel, &header, mode, observed, large);
                return (false, after);
            }
            Err(error) => {
                ended(error.status());
                self.bodies.truncate(start);
                self.fail(channel, &header, &error);
            }
        }
        (in_place, after)
    }

    /// Answers with what was encoded behind `start`.
    fn finish(
        &mut self,
        channel: &Arc<Channel>,
        request: &Header,
        finished: Finished,
        start: usize,
        span: &Span,
    ) {
        if request.kind == Kind::Oneway {
            self.bodies.truncate(start);
            return;
        }
        let header = answer_header(request, &finished);
        let body = self.gathered(start);
        self.answers.push((header, body));
        if let Some(source) = finished.stream {
            // Its items may come only after the answer.
            self.append_answers(channel, clock());
            let rest = OwnedCall::over(span.clone());
            self.executor.send_items(channel, request, rest, source);
        }
    }

    /// Answers a request that reaches no method.
    fn refuse(
        &mut self,
        channel: &Channel,
        request: &Header,
        reason: RefusedRequest,
        error: RpcError,
    ) {
        channel.settings().observer.request_refused(reason);
        self.fail(channel, request, &error.unexecuted());
    }

    fn fail(&mut self, channel: &Channel, request: &Header, error: &RpcError) {
        if request.kind == Kind::Oneway {
            limited!(warn, peer = %channel.peer(), %error, "a oneway request failed");
            return;
        }
        let (header, body) = answer_failed(channel, request.id, error);
        let start = self.bodies.len();
        self.bodies.extend_from_slice(&body);
        self.answers.push((header, Gathered::In(start..self.bodies.len())));
    }

    /// The body that is behind `start`.
    fn gathered(&mut self, start: usize) -> Gathered {
        let end = self.bodies.len();
        if end - start < KEPT_WHOLE {
            return Gathered::In(start..end);
        }
        // Large ones before it were taken out like this.
        Gathered::Whole(self.bodies.split_off_small(start).into())
    }

    fn append_answers(&mut self, channel: &Channel, now: Instant) {
        let Self { answers, bodies, .. } = self;
        if answers.is_empty() {
            return;
        }
        let answers = answers.drain(..).map(|(header, body)| match body {
            Gathered::In(range) => {
                let bodies = bodies.single(0).unwrap_or_default();
                Frame::new(header, bodies.get(range).unwrap_or_default())
            }
            Gathered::Whole(body) => Frame { header, body },
        });
        channel.append_answers(answers, now);
        bodies.truncate(0);
    }
}

impl RequestHandler for Requests {
    fn handle(
        &mut self,
        channel: &Arc<Channel>,
        batch: Batch<'_>,
        cx: &mut task::Context<'_>,
    ) -> Instant {
        self.bodies = buffer::take().into();
        self.executor.set_in_work(batch.in_work);
        let until = batch.now + TURN;
        let mut before = batch.now;
        let mut in_place = true;
        let mut left = batch.requests.len();
        let enough = channel.settings().flush_after(left, batch.split);
        for frame in &batch.requests {
            left -= 1;
            if let Err((reason, error)) = self.executor.admit(channel, batch.overloaded) {
                drop(channel.incoming_stream(&frame.header));
                self.refuse(channel, &frame.header, reason, error);
                continue;
            }
            let (polled, after) = self.start(channel, frame, before, in_place, cx);
            let slow = after > before + IN_PLACE_BUDGET;
            // The rest of the batch has waited long enough, and its answers, too.
            in_place &= after <= until;
            if slow
                && polled
                && let Some(route) = self.dispatcher.route(frame.header.method)
                && self.slow.was_slow(frame.header.method)
            {
                route.held_thread(after.saturating_duration_since(before));
            }
            // Fewer than enough would be left for another write.
            if slow || (self.answers.len() >= enough && left >= enough) {
                self.append_answers(channel, after);
                channel.flush(after);
            }
            before = after;
        }
        self.append_answers(channel, before);
        buffer::give_output(std::mem::take(&mut self.bodies));
        before
    }

    fn limits_reading(&self) -> bool {
        true
    }

    fn shrink(&mut self) {
        self.answers = Vec::new();
        self.slow.shrink();
    }
}
