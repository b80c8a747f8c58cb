//! From a request frame to the method it is for, and where that runs.
//!
//! A method is polled once in place, where its request was read: most are ready then, and all the
//! answers of a read batch leave in one write. What waits goes on in a task of its own. (brpc does
//! the like: of n requests in one read, one is handled in place.) Methods that hold the thread are
//! found out and spawned from then on; contracts can say so beforehand.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::buffer;
use crate::channel::driver::RequestHandler;
use crate::channel::{Channel, Ticket, clock};
use crate::context::Context;
use crate::descriptor::{Dispatch, MethodDescriptor};
use crate::error::RpcError;
use crate::protocol::payload::{self, Encoding};
use crate::protocol::{Body, Frame, Header, Kind, error_answer};
use crate::service::{BoxCall, Request, Service};
use crate::status::Status;

/// A method that holds the thread longer than this is not polled in place for the next calls.
const IN_PLACE_BUDGET: Duration = Duration::from_millis(1);
/// How many calls of a slow method are spawned before it is tried in place again.
const SPAWN_AFTER_SLOW: u32 = 1_000;
/// Ready answers that are gathered before they leave; Netty's flush consolidation has the same.
const MAX_GATHERED: usize = 256;

/// The services of a server by method id.
pub(super) struct Dispatcher {
    routes: HashMap<u64, Route, BuildHasherDefault<IdHasher>>,
}

struct Route {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    mode: Dispatch,
    /// Calls still to be spawned because the method held the thread.
    spawn_next: AtomicU32,
}

/// Method ids are hashes already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

impl Dispatcher {
    pub(super) fn new(services: &[Arc<dyn Service>], default: Dispatch) -> Result<Self, RpcError> {
        let mut routes: HashMap<u64, Route, _> = HashMap::default();
        for service in services {
            for &method in service.descriptor().methods() {
                let route = Route {
                    service: Arc::clone(service),
                    method,
                    mode: method.dispatch_mode().unwrap_or(default),
                    spawn_next: AtomicU32::new(0),
                };
                if let Some(other) = routes.insert(method.id(), route) {
                    return Err(RpcError::invalid(format!(
                        "{method} of {} and {} of {} have the same id on the wire: \
                         the same service is provided twice, or one needs another name or group",
                        method.service(),
                        other.method,
                        other.method.service(),
                    )));
                }
            }
        }
        Ok(Self { routes })
    }
}

impl Route {
    fn mode(&self) -> Dispatch {
        if self.mode == Dispatch::Inline
            && self.spawn_next.load(Ordering::Relaxed) > 0
            && self.spawn_next.fetch_sub(1, Ordering::Relaxed) > 0
        {
            return Dispatch::Spawn;
        }
        self.mode
    }

    fn was_slow(&self) {
        if self.spawn_next.swap(SPAWN_AFTER_SLOW, Ordering::Relaxed) == 0 {
            tracing::debug!(method = %self.method, "holds the thread; spawned from now on");
        }
    }
}

/// The requests of one connection.
pub(super) struct Requests {
    dispatcher: Arc<Dispatcher>,
    peer: Option<Arc<str>>,
    /// Held by every request in work.
    done: mpsc::Sender<()>,
    /// Ready answers, and where their bodies are in `bodies`.
    answers: Vec<(Header, Range<usize>)>,
}

/// A request that is known to be for a method that exists.
struct Accepted<'r, 'b> {
    route: &'r Route,
    request: Request<'b>,
    context: Context,
}

impl Requests {
    pub(super) fn new(dispatcher: Arc<Dispatcher>, done: mpsc::Sender<()>) -> Self {
        Self { dispatcher, peer: None, done, answers: Vec::new() }
    }

    /// Finds the method, the context and the arguments.
    fn accept<'r, 'b>(
        dispatcher: &'r Dispatcher,
        frame: &'b Frame<'_>,
        peer: &Arc<str>,
        now: Instant,
    ) -> Result<Accepted<'r, 'b>, RpcError> {
        let header = &frame.header;
        let Some(route) = dispatcher.routes.get(&header.method) else {
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
        let encoding = Encoding::of(header.flags);
        Ok(Accepted {
            route,
            request: Request { method: route.method, arguments, encoding },
            context: Context {
                deadline,
                metadata: metadata.map(Arc::new),
                peer: Some(Arc::clone(peer)),
            },
        })
    }

    /// Starts one request. A ready answer's body is appended to `bodies`.
    fn start(
        &mut self,
        channel: &Arc<Channel>,
        frame: &Frame<'_>,
        now: Instant,
        in_place: bool,
        cx: &mut task::Context<'_>,
        bodies: &mut Vec<u8>,
    ) {
        let header = frame.header;
        let peer = self.peer.get_or_insert_with(|| Arc::clone(channel.peer()));
        let start = bodies.len();
        let outcome = match Self::accept(&self.dispatcher, frame, peer, now) {
            Err(error) => Err(error.unexecuted()),
            Ok(Accepted { route, request, context }) => {
                let mode = match route.mode() {
                    Dispatch::Inline if !in_place => Dispatch::Spawn,
                    mode => mode,
                };
                // The method's code begins with the first poll, its arguments' with the decoding.
                let started = caught(|| {
                    context.enter(|| {
                        let mut call = route.service.dispatch(request)?;
                        if mode != Dispatch::Inline {
                            return Ok(Err(call));
                        }
                        match call.poll_into(cx, bodies) {
                            Poll::Ready(result) => result.map(Ok),
                            Poll::Pending => Ok(Err(call)),
                        }
                    })
                });
                match started {
                    Ok(Ok(status)) => Ok(status),
                    Err(error) => Err(error),
                    Ok(Err(call)) => {
                        self.go_on(channel, header, mode, context, call);
                        return;
                    }
                }
            }
        };
        if header.kind == Kind::Oneway {
            bodies.truncate(start);
            if let Err(error) = outcome {
                tracing::warn!(peer = %channel.peer(), %error, "a oneway request failed");
            }
            return;
        }
        let header = match outcome {
            Ok(status) => answer_header(&header, status),
            Err(error) => {
                bodies.truncate(start);
                let (header, body) = error_answer(header.id, &error);
                bodies.extend_from_slice(&body);
                header
            }
        };
        self.answers.push((header, start..bodies.len()));
    }

    /// Lets a call go on in a task of its own.
    fn go_on(
        &self,
        channel: &Arc<Channel>,
        header: Header,
        mode: Dispatch,
        context: Context,
        call: BoxCall,
    ) {
        let Some(ticket) = channel.start_work(header.id, header.kind == Kind::Oneway) else {
            return;
        };
        let late =
            finish_late(Arc::clone(channel), ticket, header, context, call, self.done.clone());
        let task = if mode == Dispatch::Blocking {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(late)).abort_handle()
        } else {
            tokio::spawn(late).abort_handle()
        };
        channel.set_abort(ticket, task);
    }

    fn append_answers(&mut self, channel: &Channel, bodies: &mut Vec<u8>) {
        channel.append_answers(
            self.answers
                .drain(..)
                .map(|(header, range)| (header, bodies.get(range).unwrap_or_default())),
        );
        bodies.clear();
    }
}

impl RequestHandler for Requests {
    fn handle(
        &mut self,
        channel: &Arc<Channel>,
        requests: Vec<Frame<'_>>,
        cx: &mut task::Context<'_>,
    ) {
        let mut bodies = buffer::take();
        let mut before = clock();
        let mut in_place = true;
        for frame in &requests {
            self.start(channel, frame, before, in_place, cx, &mut bodies);
            let after = clock();
            let slow = after.saturating_duration_since(before) > IN_PLACE_BUDGET;
            if slow && let Some(route) = self.dispatcher.routes.get(&frame.header.method) {
                route.was_slow();
                // The rest of the batch has waited long enough, and its answers, too.
                in_place = false;
            }
            if slow || self.answers.len() >= MAX_GATHERED {
                self.append_answers(channel, &mut bodies);
                channel.flush();
            }
            before = after;
        }
        self.append_answers(channel, &mut bodies);
        buffer::give(bodies);
    }

    fn limits_reading(&self) -> bool {
        true
    }
}

/// Runs a call to its end in a task of its own and sends the answer.
async fn finish_late(
    channel: Arc<Channel>,
    ticket: Ticket,
    request: Header,
    context: Context,
    mut call: BoxCall,
    _done: mpsc::Sender<()>,
) {
    let deadline = context.deadline;
    let finished = poll_fn(|cx| {
        let mut body = buffer::take();
        match caught(|| context.enter(|| Ok(call.poll_into(cx, &mut body)))) {
            Ok(Poll::Pending) => {
                buffer::give(body);
                Poll::Pending
            }
            Ok(Poll::Ready(result)) => Poll::Ready((result, body)),
            Err(error) => Poll::Ready((Err(error), body)),
        }
    });
    let (result, body) = match deadline {
        // A oneway call has nobody who stops waiting for it.
        Some(deadline) if request.kind != Kind::Oneway => {
            let timeout = tokio::time::timeout_at(deadline.into(), finished).await;
            timeout.unwrap_or_else(|_| {
                (
                    Err(RpcError::timeout("the deadline passed while the provider worked on it")),
                    Vec::new(),
                )
            })
        }
        _ => finished.await,
    };
    if request.kind == Kind::Oneway {
        channel.finish_work(ticket);
        if let Err(error) = result {
            tracing::warn!(peer = %channel.peer(), %error, "a oneway request failed");
        }
        return;
    }
    match result {
        Ok(status) => channel.answer(ticket, answer_header(&request, status), &body).await,
        Err(error) => {
            let (header, body) = error_answer(request.id, &error);
            channel.answer(ticket, header, &body).await;
        }
    }
    buffer::give(body);
}

fn answer_header(request: &Header, status: Status) -> Header {
    let mut header = Header::response(request.id, status);
    header.flags = Encoding::of(request.flags).flags();
    header
}

/// Runs a user's code; its panic is this call's error.
fn caught<T>(run: impl FnOnce() -> Result<T, RpcError>) -> Result<T, RpcError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        Err(RpcError::internal(format!(
            "the provider's method panicked: {}",
            panic_message(&*panic)
        )))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<String>() {
        Some(message) => message,
        None => panic.downcast_ref::<&str>().copied().unwrap_or("(no message)"),
    }
}
