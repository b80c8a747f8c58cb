//! [`MethodEnd`]: runs the method after the last interceptor.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};
use tracing::{Instrument, Span};

use super::answers::{AnswerSize, no_memory_for_arguments};
use super::argument_memory;
use super::dispatcher::Route;
use super::owned_request::OwnedRequest;
use super::spawned_call::{expired, room_to_begin};
use super::thread_work::OnThread;
use super::threads::Threads;
use super::user_code::{Code, caught};
use crate::budget::{Claim, FREE};
use crate::buffer;
use crate::call::{Call, Context, End, Reply, ReplyStream};
use crate::connection::{Channel, clock};
use crate::descriptor::{Dispatch, MethodDescriptor};
use crate::error::RpcError;
use crate::protocol::{Header, Kind, Output};
use crate::service::{BoxCall, Finished};

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, RpcError>> + Send>>;

/// Runs the method of a call, once.
pub(super) struct MethodEnd {
    method: &'static MethodDescriptor,
    mode: Dispatch,
    oneway: bool,
    channel: Arc<Channel>,
    threads: Threads,
    answers: Arc<AnswerSize>,
    /// The context of the method, with the changes of the interceptors.
    context: Context,
    /// If an interceptor has shortened the deadline.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The method may have run.
    has_run: bool,
    stage: Stage,
}

enum Stage {
    /// The last interceptor has not run `next` yet.
    Waiting(OwnedRequest),
    /// A decoding thread reads the arguments.
    Decoding(BoxFuture<(BoxCall, usize)>),
    /// Others hold the memory for the response.
    WaitingForRoom(BoxCall, usize, BoxFuture<Claim>),
    Running(MethodRun),
    /// On a thread for blocking methods.
    OnThread(OnThread),
    Over,
}

impl MethodEnd {
    pub(super) fn new(
        route: &Route,
        request: OwnedRequest,
        header: &Header,
        context: &Context,
        channel: &Arc<Channel>,
        threads: &Threads,
    ) -> Self {
        Self {
            method: route.method,
            mode: route.mode(),
            oneway: header.kind == Kind::Oneway,
            channel: Arc::clone(channel),
            threads: threads.clone(),
            answers: Arc::clone(route.answers()),
            context: context.clone(),
            deadline: None,
            has_run: false,
            stage: Stage::Waiting(request),
        }
    }

    /// Whether the method may have run.
    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    /// The interceptors have let the call pass.
    fn reach(&mut self, call: &mut Call<'_>, request: OwnedRequest) -> Result<Stage, RpcError> {
        let before = self.context.deadline();
        call.update(&mut self.context);
        if let Some(deadline) = self.own_deadline().filter(|deadline| Some(*deadline) != before) {
            self.deadline = Some(Box::pin(sleep_until(deadline.into())));
        }
        self.dispatch(request)
    }

    /// The caller's deadline. A oneway call has none.
    fn own_deadline(&self) -> Option<Instant> {
        self.context.deadline().filter(|_| !self.oneway)
    }

    /// Decodes the arguments, here if they are small.
    fn dispatch(&mut self, mut request: OwnedRequest) -> Result<Stage, RpcError> {
        let Self { method, channel, context, .. } = self;
        if !request.is_large() {
            let limits = channel.settings().decode;
            let dispatch = || context.enter(|| request.dispatch_in_place(limits));
            if let Some(call) = caught(Code::Method, method, channel, dispatch)? {
                request.recycle();
                return self.begin(call, 0);
            }
        }
        let (method, channel, mut context) = (*method, Arc::clone(channel), context.clone());
        let span = Span::current();
        let decoded = self.threads.decode(move || {
            let _inside = span.enter();
            let dispatch = || Ok(request.dispatch(channel.settings().decode)?);
            let dispatch = || context.enter(dispatch);
            (caught(Code::Method, method, &channel, dispatch), request)
        });
        Ok(Stage::Decoding(Box::pin(async move {
            let (call, request) = decoded.await?;
            let bytes = request.len();
            // Freed on the thread that allocated it: memory returns to that thread's cache.
            request.recycle();
            Ok((call?, bytes))
        })))
    }

    /// Begins the method. `before`: memory of the request that counts already.
    fn begin(&mut self, call: BoxCall, before: usize) -> Result<Stage, RpcError> {
        let bytes = call.memory();
        if !self.channel.may_begin(before, bytes) {
            return Err(no_memory_for_arguments(bytes));
        }
        let memory = bytes.max(before);
        argument_memory::set(memory);
        // The request began when it reached the interceptors, and others have been answered since.
        // One with counted arguments continues, as others may wait for their memory.
        let expected = self.answers.expected(self.channel.largest_answer());
        if memory <= FREE && !self.oneway && self.channel.must_wait(expected) {
            let channel = Arc::clone(&self.channel);
            let room = Box::pin(async move { room_to_begin(&channel, expected).await });
            return Ok(Stage::WaitingForRoom(call, memory, room));
        }
        Ok(self.start(call, memory, None))
    }

    /// Starts the method. `memory`: bytes of its arguments; `room`: memory for its response.
    fn start(&mut self, call: BoxCall, memory: usize, room: Option<Claim>) -> Stage {
        self.has_run = true;
        let deadline = self.own_deadline();
        let run = MethodRun {
            method: self.method,
            channel: Arc::clone(&self.channel),
            context: mem::take(&mut self.context),
            room,
            call,
        };
        match self.mode {
            Dispatch::Inline | Dispatch::Spawn => Stage::Running(run),
            Dispatch::Blocking => Stage::OnThread(run.on_thread(&self.threads, deadline, memory)),
        }
    }

    fn step(
        &mut self,
        cx: &mut task::Context<'_>,
        call: &mut Call<'_>,
    ) -> Poll<Result<Reply, RpcError>> {
        if let Stage::Waiting(_) = &self.stage
            && let Stage::Waiting(request) = mem::replace(&mut self.stage, Stage::Over)
        {
            self.stage = self.reach(call, request)?;
        }
        if let Stage::Decoding(decoded) = &mut self.stage {
            let (call, before) = ready!(decoded.as_mut().poll(cx))?;
            self.stage = self.begin(call, before)?;
        }
        if let Stage::WaitingForRoom(.., room) = &mut self.stage {
            let room = ready!(room.as_mut().poll(cx))?;
            if let Stage::WaitingForRoom(call, memory, _) =
                mem::replace(&mut self.stage, Stage::Over)
            {
                self.stage = self.start(call, memory, Some(room));
            }
        }
        match &mut self.stage {
            Stage::Running(run) => run.poll(cx),
            Stage::OnThread(outcome) => {
                let outcome = ready!(outcome.poll(cx));
                self.has_run = !outcome.as_ref().is_err_and(RpcError::is_unexecuted);
                Poll::Ready(outcome)
            }
            Stage::Waiting(_) | Stage::Decoding(_) | Stage::WaitingForRoom(..) | Stage::Over => {
                Poll::Ready(Err(RpcError::internal(
                    "the method was begun already: at a server `next` runs once",
                )))
            }
        }
    }
}

impl End for MethodEnd {
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        call: &mut Call<'_>,
    ) -> Poll<Result<Reply, RpcError>> {
        let mut outcome = self.step(cx, call);
        if outcome.is_pending()
            && let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let passed = "the deadline that an interceptor has set passed before the method ended";
            outcome = Poll::Ready(Err(RpcError::timeout(passed)));
        }
        if outcome.is_ready() {
            self.stage = Stage::Over;
        }
        outcome
    }

    fn cancel(&mut self) {
        // Not yet begun, it can still be run.
        if !matches!(self.stage, Stage::Waiting(_)) {
            self.stage = Stage::Over;
        }
    }
}

/// A method that runs, and what it runs with.
struct MethodRun {
    method: &'static MethodDescriptor,
    channel: Arc<Channel>,
    context: Context,
    room: Option<Claim>,
    call: BoxCall,
}

impl MethodRun {
    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<Reply, RpcError>> {
        let Self { method, channel, context, call, .. } = self;
        let poll = || {
            // A buffer is taken when there is something to be encoded.
            if call.poll_ready(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            let mut out = Output::from(buffer::take());
            let finished = call.poll_into(cx, &mut out);
            Ok(finished.map(|finished| finished.map(|finished| (finished, out))))
        };
        let polled = caught(Code::Method, method, channel, || context.enter(poll));
        let (finished, out) = ready!(polled.unwrap_or_else(|error| Poll::Ready(Err(error))))?;
        let Finished { status, form, stream, .. } = finished;
        let mut reply = Reply::new(status, form, out.into());
        reply.stream = stream.map(ReplyStream::Outgoing);
        reply.room = self.room.take().map(|room| Box::new(room) as _);
        reply.metadata = self.context.take_reply_metadata();
        Poll::Ready(Ok(reply))
    }

    /// Runs it on a thread for blocking methods. `memory`: of the arguments.
    fn on_thread(
        mut self,
        threads: &Threads,
        deadline: Option<Instant>,
        memory: usize,
    ) -> OnThread {
        let channel = Arc::clone(&self.channel);
        let run = async move {
            if deadline.is_some_and(|deadline| deadline <= clock()) {
                return Err(expired());
            }
            poll_fn(|cx| self.poll(cx)).await
        };
        OnThread::new(&channel, threads, memory, run.instrument(Span::current()))
    }
}
