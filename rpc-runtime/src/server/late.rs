//! Requests that go on in tasks of their own.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rpc_registry::{Printable, limited};
use tracing::{Instrument, Span};

use super::answers::{AnswerSize, no_memory, no_memory_for_arguments};
use super::workers::InWork;
use crate::budget::{Claim, FREE};
use crate::buffer;
use crate::call::{Context, Source};
use crate::connection::{Channel, WorkId, clock, pump};
use crate::descriptor::MethodDescriptor;
use crate::error::{RpcError, exposed};
use crate::observe::{OwnedCall, RefusedMemory};
use crate::protocol::payload::Form;
use crate::protocol::{Flags, Frame, Header, Kind, Output, error_answer};
use crate::service::{BoxCall, Finished};
use crate::status::Status;

/// Maximum wait of a request for memory before it begins.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A request in work, until it is dropped.
pub(super) struct Late {
    channel: Arc<Channel>,
    ticket: WorkId,
    request: Header,
    observed: OwnedCall,
    /// Memory for the response, until the response is queued and counted as output.
    room: Option<Claim>,
    _in_work: InWork,
}

impl Drop for Late {
    fn drop(&mut self) {
        self.channel.finish_work(self.ticket);
    }
}

impl Late {
    pub(super) fn new(
        channel: Arc<Channel>,
        ticket: WorkId,
        request: Header,
        observed: OwnedCall,
        in_work: InWork,
    ) -> Self {
        Self { channel, ticket, request, observed, room: None, _in_work: in_work }
    }

    pub(super) fn ticket(&self) -> WorkId {
        self.ticket
    }

    pub(super) fn span(&self) -> &Span {
        self.observed.span()
    }

    /// The caller's deadline. A oneway call has none.
    pub(super) fn deadline(&self, context: &Context) -> Option<Instant> {
        context.deadline.filter(|_| self.request.kind != Kind::Oneway)
    }

    /// The arguments, of which `before` bytes count already, take so many bytes of memory.
    ///
    /// # Errors
    /// There is not so much. The method has not run.
    pub(super) fn arguments_take_from(&self, before: usize, bytes: usize) -> Result<(), RpcError> {
        if !self.channel.may_begin(before, bytes) {
            return Err(no_memory_for_arguments(bytes));
        }
        self.arguments_take(bytes.max(before));
        Ok(())
    }

    /// Sets the memory of the arguments, in bytes.
    fn arguments_take(&self, bytes: usize) {
        self.channel.arguments_take(self.ticket, bytes);
    }

    /// Waits until there is memory for the response, before the method begins.
    ///
    /// # Errors
    /// None became free in time. The method has not run.
    async fn begin(&mut self, arguments: usize, answers: &AnswerSize) -> Result<(), RpcError> {
        let expected = answers.expected(self.channel.largest_answer());
        // A request with counted arguments continues; otherwise waiting requests could hold all
        // memory.
        let arguments = arguments.max(self.request.length as usize);
        if arguments > FREE || !self.channel.must_wait(expected) {
            return Ok(());
        }
        match tokio::time::timeout(LONGEST_WAIT, self.channel.room(expected)).await {
            Ok(room) => self.room = Some(room),
            Err(_) => return Err(self.no_memory()),
        }
        Ok(())
    }

    /// Waits until there is memory for the response, which is not yet encoded.
    async fn end(&mut self, answers: &AnswerSize) {
        loop {
            // More may be known of it than when it began to wait.
            let expected = answers.expected(self.channel.largest_answer());
            let enough = match &self.room {
                Some(room) => room.bytes() >= expected,
                None => !self.channel.must_wait(expected),
            };
            if enough {
                return;
            }
            // Release the arguments first: others may wait for their memory.
            self.arguments_take(0);
            drop(self.room.take());
            self.room = Some(self.channel.room(expected).await);
        }
    }

    /// Responds with an error.
    pub(super) async fn fail(self, error: RpcError) {
        self.finish(Err(error), Output::default()).await;
    }

    /// Sends the response in `body`, and the items of its stream.
    async fn finish(mut self, result: Result<Finished, RpcError>, mut body: Output) {
        let status = result.as_ref().map_or_else(RpcError::status, |finished| finished.status);
        self.observed.ended(status);
        let Self { channel, ticket, request, room, .. } = &mut self;
        if request.kind == Kind::Oneway {
            if let Err(error) = result {
                limited!(warn, peer = %channel.peer(), %error, "a oneway request failed");
            }
            return;
        }
        match result {
            Ok(finished) => {
                let answer = Frame::taking(answer_header(request, &finished), &mut body);
                channel.answer(*ticket, answer).await;
                drop(room.take());
                buffer::give_output(body);
                if let Some(source) = finished.stream {
                    let form = Form::of(request.flags);
                    self.send_items(source, form).await;
                }
            }
            Err(error) => {
                let (header, body) = answer_failed(channel, request.id, &error);
                channel.answer(*ticket, Frame::new(header, &body)).await;
            }
        }
    }

    /// The error of a request that is not begun.
    fn no_memory(&self) -> RpcError {
        self.channel.settings().observer.memory_refused(RefusedMemory::Request);
        let why = format!(
            "no memory for the response became free within {LONGEST_WAIT:?} (`MemoryLimits`)"
        );
        RpcError::new(Status::Overloaded, why).unexecuted()
    }

    /// Sends the items of a result that is a stream; its answer is on the way.
    pub(super) async fn send_items(self, source: Box<dyn Source>, form: Form) {
        self.arguments_take(0);
        let items = self.channel.outgoing_stream(self.request.id, self.ticket);
        pump(items, source, form).instrument(self.observed.span().clone()).await;
    }
}

/// The future of a method's call.
pub(super) struct Running {
    pub(super) method: &'static MethodDescriptor,
    pub(super) answers: Arc<AnswerSize>,
    pub(super) context: Context,
    pub(super) call: BoxCall,
}

/// Runs a call to its end and sends the answer.
pub(super) async fn run(mut late: Late, running: Running) {
    let Running { method, answers, mut context, mut call } = running;
    let deadline = late.deadline(&context);
    let span = late.observed.span().clone();
    let channel = Arc::clone(&late.channel);
    let mut body = Output::default();
    let finished = async {
        late.begin(call.memory(), &answers).await?;
        let returned = poll_fn(|cx| {
            let _inside = span.enter();
            let polled = caught(method, &channel, || context.enter(|| Ok(call.poll_ready(cx))));
            polled.map_or_else(|error| Poll::Ready(Err(error)), |polled| polled.map(Ok))
        });
        returned.await?;
        late.end(&answers).await;
        let mut encoded = Output::from(buffer::take());
        let finished = poll_fn(|cx| {
            let _inside = span.enter();
            let encode = || context.enter(|| Ok(call.poll_into(cx, &mut encoded)));
            caught(method, &channel, encode).unwrap_or_else(|error| Poll::Ready(Err(error)))
        });
        let finished = finished.await?;
        let bold = !answers.gave(channel.largest_answer(), encoded.len());
        if bold && !channel.may_keep(encoded.len(), bold) {
            return Err(no_memory(encoded.len()));
        }
        body = encoded;
        Ok(finished)
    };
    let result = match deadline {
        Some(deadline) => {
            tokio::time::timeout_at(deadline.into(), finished).await.unwrap_or_else(|_| {
                let late = "the deadline passed while the provider worked on it";
                Err(RpcError::timeout(late))
            })
        }
        None => finished.await,
    };
    late.finish(result, body).await;
}

/// The same for a call that waited in a queue.
pub(super) async fn run_after_waiting(late: Late, running: Running) {
    if late.deadline(&running.context).is_some_and(|deadline| deadline <= clock()) {
        return late.fail(expired()).await;
    }
    run(late, running).await;
}

/// The response to a call whose deadline passed before it began.
pub(super) fn expired() -> RpcError {
    RpcError::timeout("the deadline passed before the provider began the call").unexecuted()
}

pub(super) fn answer_header(request: &Header, finished: &Finished) -> Header {
    let mut header = Header::response(request.id, finished.status);
    header.flags = finished.form.flags();
    if finished.stream.is_some() {
        header.flags = header.flags.with(Flags::STREAM);
    }
    header
}

/// The error response to a failed request.
pub(super) fn answer_failed(channel: &Channel, id: u64, error: &RpcError) -> (Header, Vec<u8>) {
    exposed(channel.settings().expose_internal_errors, || error_answer(id, error))
}

/// Runs a user's code and encodes its result. A panic becomes the error of this call. Its text is
/// logged only, since it reveals details of this process.
#[inline]
pub(super) fn caught<T>(
    method: &MethodDescriptor,
    channel: &Channel,
    run: impl FnOnce() -> Result<T, RpcError>,
) -> Result<T, RpcError> {
    let expose = channel.settings().expose_internal_errors;
    catch_unwind(AssertUnwindSafe(|| exposed(expose, run))).unwrap_or_else(|panic| {
        let message = Printable(panic_message(&*panic));
        limited!(error, %method, peer = %channel.peer(), %message, "a method panicked");
        Err(RpcError::internal(match expose {
            true => format!("the provider's method panicked: {message}"),
            false => "the provider's method panicked".to_owned(),
        }))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<String>() {
        Some(message) => message,
        None => panic.downcast_ref::<&str>().copied().unwrap_or("(no message)"),
    }
}
