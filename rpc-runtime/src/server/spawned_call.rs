//! [`SpawnedCall`]: a request that is answered by a separate task.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rpc_registry::limited;
use tracing::{Instrument, Span};

use super::answers::{AnswerSize, no_memory, no_memory_for_arguments};
use super::response;
use super::user_code::{Code, caught};
use super::workers::InWork;
use crate::budget::{Claim, FREE};
use crate::buffer;
use crate::call::{Context, Source};
use crate::connection::{Channel, WorkId, clock, pump};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::observe::{MemoryRefusal, OwnedCall};
use crate::protocol::payload::Form;
use crate::protocol::{Frame, Header, Kind, Output};
use crate::service::{BoxCall, Finished};
use crate::status::Status;

/// Maximum wait of a request for memory before it begins.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A running request, until it is dropped.
pub(super) struct SpawnedCall {
    channel: Arc<Channel>,
    work: WorkId,
    request: Header,
    observed: OwnedCall,
    /// Memory of the metadata in bytes, which is kept to the end.
    metadata: usize,
    /// Memory for the response, until the response is queued and counted as output.
    room: Option<Claim>,
    _in_work: InWork,
}

impl Drop for SpawnedCall {
    fn drop(&mut self) {
        self.channel.finish_work(self.work);
    }
}

impl SpawnedCall {
    pub(super) fn new(
        channel: Arc<Channel>,
        work: WorkId,
        request: Header,
        observed: OwnedCall,
        metadata: usize,
        in_work: InWork,
    ) -> Self {
        Self { channel, work, request, observed, metadata, room: None, _in_work: in_work }
    }

    pub(super) fn work(&self) -> WorkId {
        self.work
    }

    pub(super) fn span(&self) -> &Span {
        self.observed.span()
    }

    /// The caller's deadline. A oneway call has none.
    pub(super) fn deadline(&self, context: &Context) -> Option<Instant> {
        context.deadline.filter(|_| self.request.kind != Kind::Oneway)
    }

    /// Charges the memory of the arguments, of which `before` bytes are charged already.
    ///
    /// # Errors
    /// The memory is not available. The method has not run.
    pub(super) fn arguments_take_from(&self, before: usize, bytes: usize) -> Result<(), RpcError> {
        if !self.channel.may_begin(before, bytes) {
            return Err(no_memory_for_arguments(bytes));
        }
        self.arguments_take(bytes.max(before));
        Ok(())
    }

    /// Sets the memory of the arguments, in bytes.
    fn arguments_take(&self, bytes: usize) {
        self.channel.arguments_take(self.work, bytes.saturating_add(self.metadata));
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
        self.room = Some(room_to_begin(&self.channel, expected).await?);
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
        let Self { channel, work, request, room, .. } = &mut self;
        if request.kind == Kind::Oneway {
            if let Err(error) = result {
                limited!(warn, peer = %channel.peer(), %error, "a oneway request failed");
            }
            return;
        }
        match result {
            Ok(finished) => {
                let answer = Frame::taking(response::header(request, &finished), &mut body);
                channel.answer(*work, answer).await;
                drop(room.take());
                buffer::give_output(body);
                if let Some(source) = finished.stream {
                    let form = Form::of(request.flags);
                    self.send_items(source, form).await;
                }
            }
            Err(error) => {
                let (header, body) = response::error(channel, request.id, &error);
                channel.answer(*work, Frame::new(header, &body)).await;
            }
        }
    }

    /// Sends the items of a result that is a stream; its answer is on the way.
    pub(super) async fn send_items(self, source: Box<dyn Source>, form: Form) {
        self.arguments_take(0);
        let items = self.channel.outgoing_stream(self.request.id, self.work);
        pump(items, source, form).instrument(self.observed.span().clone()).await;
    }
}

/// Waits until there is memory for a response of `expected` bytes, before the method begins.
///
/// # Errors
/// None became free in time. The method has not run.
pub(super) async fn room_to_begin(channel: &Channel, expected: usize) -> Result<Claim, RpcError> {
    let room = tokio::time::timeout(LONGEST_WAIT, channel.room(expected)).await;
    room.map_err(|_| {
        channel.settings().observer.memory_refused(MemoryRefusal::Request);
        let why = format!(
            "no memory for the response became free within {LONGEST_WAIT:?} (`MemoryLimits`)"
        );
        RpcError::new(Status::Overloaded, why).unexecuted()
    })
}

/// The future of a method's call.
pub(super) struct Running {
    pub(super) method: &'static MethodDescriptor,
    pub(super) answers: Arc<AnswerSize>,
    pub(super) context: Context,
    pub(super) call: BoxCall,
}

/// Runs a call to its end and sends the answer.
pub(super) async fn run(mut spawned: SpawnedCall, running: Running) {
    let Running { method, answers, mut context, mut call } = running;
    let deadline = spawned.deadline(&context);
    let span = spawned.observed.span().clone();
    let channel = Arc::clone(&spawned.channel);
    let mut body = Output::default();
    let finished = async {
        spawned.begin(call.memory(), &answers).await?;
        let mut arguments = call.memory();
        let returned = poll_fn(|cx| {
            let _inside = span.enter();
            let poll = || context.enter(|| Ok(call.poll_ready(cx)));
            let polled = caught(Code::Method, method, &channel, poll);
            // Behind interceptors they are decoded now.
            if call.memory() != arguments {
                arguments = call.memory();
                spawned.arguments_take(arguments.max(spawned.request.length as usize));
            }
            polled.map_or_else(|error| Poll::Ready(Err(error)), |polled| polled.map(Ok))
        });
        returned.await?;
        // What was reserved behind the interceptors goes on with the response.
        if let Some(room) = call.take_room() {
            spawned.room = Some(room);
        }
        spawned.end(&answers).await;
        let mut encoded = Output::from(buffer::take());
        let finished = poll_fn(|cx| {
            let _inside = span.enter();
            let encode = || context.enter(|| Ok(call.poll_into(cx, &mut encoded)));
            caught(Code::Method, method, &channel, encode)
                .unwrap_or_else(|error| Poll::Ready(Err(error)))
        });
        let mut finished = finished.await?;
        let bold = !answers.gave(channel.largest_answer(), encoded.len());
        if bold && !channel.may_keep(encoded.len(), bold) {
            return Err(no_memory(encoded.len()));
        }
        response::write_metadata(&channel, &mut finished, &mut context, &mut encoded, 0)?;
        body = encoded;
        Ok(finished)
    };
    let result = match deadline {
        Some(deadline) => {
            tokio::time::timeout_at(deadline.into(), finished).await.unwrap_or_else(|_| {
                let passed = "the deadline passed while the provider worked on it";
                Err(RpcError::timeout(passed))
            })
        }
        None => finished.await,
    };
    spawned.finish(result, body).await;
}

/// The same for a call that waited in a queue.
pub(super) async fn run_after_waiting(spawned: SpawnedCall, running: Running) {
    if spawned.deadline(&running.context).is_some_and(|deadline| deadline <= clock()) {
        return spawned.fail(expired()).await;
    }
    run(spawned, running).await;
}

/// The response to a call whose deadline passed before it began.
pub(super) fn expired() -> RpcError {
    RpcError::timeout("the deadline passed before the provider began the call").unexecuted()
}
