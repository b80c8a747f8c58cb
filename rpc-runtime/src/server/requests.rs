//! The requests of one connection, from their frames to their responses.
//!
//! A method is polled once in place, where its request was read: most are ready then, and the
//! responses of a read batch are sent together. A call that waits continues in a separate task.
//! (brpc is similar: of n requests in one read, one is handled in place.) Methods that hold the
//! thread are detected and spawned for a while; a contract can also require it.

use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tracing::Span;

use super::answers::no_memory_for_arguments;
use super::chain;
use super::connections::ConnectionPermit;
use super::dispatcher::Dispatcher;
use super::executor::Executor;
use super::large::LargeRequest;
use super::owned_request::{LARGE, OwnedRequest, over_memory};
use super::ready_responses::ReadyResponses;
use super::received::Received;
use super::response;
use super::slow_methods::SlowMethods;
use super::spawned_call::Running;
use super::threads::Threads;
use super::user_code::{Code, caught};
use super::workers::Workers;
use crate::budget::FREE;
use crate::connection::driver::{Batch, RequestHandler, TURN};
use crate::connection::{Channel, clock};
use crate::descriptor::Dispatch;
use crate::error::RpcError;
use crate::observe::{self, OwnedCall, RequestRefusal};
use crate::protocol::{Frame, Header, Kind};
use crate::service::{BoxCall, Finished, OverMemory};

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

/// The result of the first poll.
enum FirstPoll {
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
        let owner = permit.owner();
        let threads = Threads::new(workers.of(owner.address), owner.connection);
        Self {
            dispatcher,
            executor: Executor::new(threads),
            _permit: permit,
            slow: SlowMethods::default(),
            ready: ReadyResponses::default(),
        }
    }

    /// Starts one request: responds, or continues it in a separate task. Returns whether its method
    /// was polled here, and the time after that.
    fn start(
        &mut self,
        channel: &Arc<Channel>,
        frame: &Frame<'_>,
        now: Instant,
        in_place: bool,
        cx: &mut task::Context<'_>,
    ) -> (bool, Instant) {
        let header = frame.header;
        let received = match Received::new(&self.dispatcher, channel, frame, now) {
            Ok(received) => received,
            Err(error) => {
                self.refuse(channel, &header, RequestRefusal::from_status(error.status()), error);
                return (false, clock());
            }
        };
        let Received { route, mut request, mut context } = received;
        let has_chain = !route.interceptors.is_empty();
        let is_large = frame.body.len() >= LARGE && !has_chain;
        let answers = route.answers();
        let expected = answers.expected(channel.largest_answer());
        let mode = match route.mode() {
            // The interceptors run here, and only the method on a thread.
            Dispatch::Blocking if has_chain => Dispatch::Inline,
            mode => mode,
        };
        let mode = match mode {
            Dispatch::Inline if !in_place || self.slow.spawns_next(header.method) => {
                Dispatch::Spawn
            }
            // The task waits until there is memory for the response.
            Dispatch::Inline if channel.must_wait(expected) => Dispatch::Spawn,
            mode => mode,
        };
        let in_place = mode == Dispatch::Inline && !is_large;
        let span = observe::server_call(route.method, header.id, channel.peer());
        #[cfg(feature = "opentelemetry")]
        observe::continue_trace(&span, context.metadata.as_deref());
        route.metrics.iter().for_each(|metrics| metrics.began());
        let arguments = request.arguments.len();
        if is_large {
            let observed = OwnedCall::running(route.metrics.clone(), now, span);
            let request = OwnedRequest::new(route, frame, arguments, request.stream);
            let large = LargeRequest::new(route, request, context);
            self.executor.decode_and_run(channel, &header, mode, observed, large);
            return (false, clock());
        }
        let inside = span.enter();
        let start = self.ready.bodies().len();
        // The method's code begins with the first poll, its arguments' with the decoding.
        let chained = has_chain.then(|| {
            let request = OwnedRequest::new(route, frame, arguments, request.stream.take());
            chain::call(route, request, &header, &context, channel, self.executor.threads())
        });
        let begun = caught(Code::Method, route.method, channel, || {
            context.enter(|| {
                let dispatched = match chained {
                    Some(call) => Ok(call),
                    None => route.service.dispatch(request),
                };
                let mut call = match dispatched {
                    Ok(call) => call,
                    Err(why) => {
                        let limits = channel.settings().decode;
                        return over_memory(why, limits, arguments).map(FirstPoll::Large);
                    }
                };
                let memory = call.dispatched_memory();
                if !channel.may_begin(0, memory) {
                    return Err(no_memory_for_arguments(memory));
                }
                if !in_place {
                    return Ok(FirstPoll::Running(call));
                }
                match call.poll_into(cx, self.ready.bodies()) {
                    Poll::Ready(finished) => finished.map(FirstPoll::Finished),
                    Poll::Pending => Ok(FirstPoll::Running(call)),
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
            Ok(FirstPoll::Finished(mut finished)) => {
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
            Ok(FirstPoll::Running(call)) => {
                let observed = OwnedCall::running(route.metrics.clone(), now, span);
                let answers = Arc::clone(answers);
                let running = Running { method: route.method, answers, context, call };
                self.executor.run(channel, &header, mode, observed, running);
            }
            Ok(FirstPoll::Large(OverMemory { stream })) => {
                let observed = OwnedCall::running(route.metrics.clone(), now, span);
                let request = OwnedRequest::new(route, frame, arguments, stream);
                let large = LargeRequest::new(route, request, context);
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

    /// Responds with the bytes that were encoded after `start`.
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
        // A stream's items may come only after the answer; a large answer is counted before the
        // next request begins.
        if finished.stream.is_some() || bytes > FREE {
            self.ready.append(channel, clock());
        }
        if let Some(source) = finished.stream {
            let rest = OwnedCall::response_sent(span.clone());
            self.executor.send_items(channel, request, rest, source);
        }
    }

    /// Answers a request that reaches no method.
    fn refuse(
        &mut self,
        channel: &Channel,
        request: &Header,
        reason: RequestRefusal,
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
