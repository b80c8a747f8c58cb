//! The requests of one connection, from their frames to their answers.
//!
//! A method is polled once in place, where its request was read: most are ready then, and the
//! answers of a read batch leave together. What waits goes on in a task of its own. (brpc does
//! the like: of n requests in one read, one is handled in place.) Methods that hold the thread are
//! found out and spawned from then on; contracts can say so beforehand.

use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tracing::Span;

use super::answers::no_memory_for_arguments;
use super::connections::ConnectionPermit;
use super::dispatcher::{Dispatcher, Route};
use super::executor::Executor;
use super::large::{LARGE, LargeRequest, limits_in_place, over_memory};
use super::ready_responses::ReadyResponses;
use super::response;
use super::slow_methods::SlowMethods;
use super::spawned_call::Running;
use super::user_code::caught;
use super::workers::Workers;
use crate::budget::FREE;
use crate::call::Context;
use crate::connection::driver::{Batch, RequestHandler, TURN};
use crate::connection::{Channel, clock};
use crate::descriptor::Dispatch;
use crate::error::RpcError;
use crate::observe::{self, OwnedCall, RefusedRequest};
use crate::protocol::payload::{self, Form};
use crate::protocol::{Body, Frame, Header, Kind};
use crate::service::{BoxCall, Finished, OverMemory, Request};
use crate::status::Status;

/// A method that holds the thread longer than this is not polled in place for the next calls.
const IN_PLACE_BUDGET: Duration = TURN;

/// The requests of one connection.
pub(super) struct Requests {
    dispatcher: Arc<Dispatcher>,
    /// Dropped before the executor, so that the permit is free when the server ends.
    _permit: ConnectionPermit,
    executor: Executor,
    slow: SlowMethods,
    ready: ReadyResponses,
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
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        permit: ConnectionPermit,
        workers: &Arc<Workers>,
    ) -> Self {
        Self {
            dispatcher,
            executor: Executor::new(workers.of(permit.owner().address), permit.owner().connection),
            _permit: permit,
            slow: SlowMethods::default(),
            ready: ReadyResponses::default(),
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
            context: Context::received(
                deadline,
                metadata.map(Arc::new),
                Arc::clone(channel.peer()),
                channel.peer_certificate().cloned(),
            ),
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
        let start = self.ready.bodies().len();
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
                match call.poll_into(cx, self.ready.bodies()) {
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
            Ok(Begun::Finished(mut finished)) => {
                let ready = &mut self.ready;
                match ready.check(channel, answers, &mut finished, &mut context, start) {
                    Ok(()) => {
                        ended(finished.status);
                        self.finish(channel, &header, finished, start, &span);
                    }
                    Err(error) => {
                        ended(error.status());
                        self.ready.bodies().truncate(start);
                        self.ready.fail(channel, &header, &error);
                    }
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
                self.ready.bodies().truncate(start);
                self.ready.fail(channel, &header, &error);
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
            self.ready.bodies().truncate(start);
            return;
        }
        let bytes = self.ready.bodies().len() - start;
        self.ready.push(response::header(request, &finished), start);
        // A stream's items may come only after the answer; a large answer is counted before the next
        // request begins.
        if finished.stream.is_some() || bytes > FREE {
            self.ready.append(channel, clock());
        }
        if let Some(source) = finished.stream {
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
        self.ready.fail(channel, request, &error.unexecuted());
    }
}

impl RequestHandler for Requests {
    fn handle(
        &mut self,
        channel: &Arc<Channel>,
        batch: Batch<'_>,
        cx: &mut task::Context<'_>,
    ) -> Instant {
        self.ready.begin();
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
            if slow || (self.ready.len() >= enough && left >= enough) {
                self.ready.append(channel, after);
                channel.flush(after);
            }
            before = after;
        }
        self.ready.append(channel, before);
        self.ready.end();
        before
    }

    fn limits_reading(&self) -> bool {
        true
    }

    fn shrink(&mut self) {
        self.ready.shrink();
        self.slow.shrink();
    }
}
