//! Requests that go on in tasks of their own.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use rpc_registry::{Printable, limited};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::buffer;
use crate::channel::{Channel, Source, Ticket, pump};
use crate::context::Context;
use crate::descriptor::MethodDescriptor;
use crate::error::{RpcError, exposed};
use crate::observe::OwnedCall;
use crate::protocol::payload::Form;
use crate::protocol::{Flags, Frame, Header, Kind, Output, error_answer};
use crate::service::{BoxCall, Finished};

/// A request in work, until it is dropped.
pub(super) struct Late {
    channel: Arc<Channel>,
    ticket: Ticket,
    request: Header,
    observed: OwnedCall,
    /// The server is not done before this is.
    _done: mpsc::Sender<()>,
}

impl Drop for Late {
    fn drop(&mut self) {
        self.channel.finish_work(self.ticket);
    }
}

impl Late {
    pub(super) fn new(
        channel: Arc<Channel>,
        ticket: Ticket,
        request: Header,
        observed: OwnedCall,
        done: mpsc::Sender<()>,
    ) -> Self {
        Self { channel, ticket, request, observed, _done: done }
    }

    /// Sends the items of a result that is a stream; its answer is on the way.
    pub(super) async fn send_items(self, source: Box<dyn Source>, form: Form) {
        let items = self.channel.outgoing_stream(self.request.id, self.ticket);
        pump(items, source, form).instrument(self.observed.span().clone()).await;
    }
}

/// Runs a call to its end and sends the answer.
pub(super) async fn run(
    mut late: Late,
    mut context: Context,
    mut call: BoxCall,
    method: &'static MethodDescriptor,
) {
    let deadline = context.deadline;
    let span = late.observed.span().clone();
    let channel = Arc::clone(&late.channel);
    let finished = poll_fn(|cx| {
        let _inside = span.enter();
        let mut body = Output::from(buffer::take());
        match caught(method, &channel, || context.enter(|| Ok(call.poll_into(cx, &mut body)))) {
            Ok(Poll::Pending) => {
                buffer::give_output(body);
                Poll::Pending
            }
            Ok(Poll::Ready(result)) => Poll::Ready((result, body)),
            Err(error) => Poll::Ready((Err(error), body)),
        }
    });
    let (result, mut body) = match deadline {
        // A oneway call has nobody who stops waiting for it.
        Some(deadline) if late.request.kind != Kind::Oneway => {
            tokio::time::timeout_at(deadline.into(), finished).await.unwrap_or_else(|_| {
                let late = "the deadline passed while the provider worked on it";
                (Err(RpcError::timeout(late)), Output::default())
            })
        }
        _ => finished.await,
    };
    let status = result.as_ref().map_or_else(RpcError::status, |finished| finished.status);
    late.observed.ended(status);
    let Late { channel, ticket, request, .. } = &late;
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
            buffer::give_output(body);
            if let Some(source) = finished.stream {
                let form = Form::of(request.flags);
                late.send_items(source, form).await;
            }
        }
        Err(error) => {
            let (header, body) = answer_failed(channel, request.id, &error);
            channel.answer(*ticket, Frame::new(header, &body)).await;
        }
    }
}

pub(super) fn answer_header(request: &Header, finished: &Finished) -> Header {
    let mut header = Header::response(request.id, finished.status);
    header.flags = finished.form.flags();
    if finished.stream.is_some() {
        header.flags = header.flags.with(Flags::STREAM);
    }
    header
}

/// The answer that says why a request failed.
pub(super) fn answer_failed(channel: &Channel, id: u64, error: &RpcError) -> (Header, Vec<u8>) {
    exposed(channel.settings().expose_internal_errors, || error_answer(id, error))
}

/// Runs a user's code, and encodes what it returns; its panic is this call's error. The text of a
/// panic is for the log: it tells of the inside of this process.
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
