//! Calls with interceptors.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rpc_registry::limited;
use tokio::time::{Sleep, sleep_until};

use super::request::Unsent;
use super::sending::Sending;
use crate::call::{Call, End, Reply};
use crate::connection::clock;
use crate::error::RpcError;
use crate::protocol::Output;
use crate::protocol::payload::Form;

/// Runs the interceptors of the client, then sends the call.
pub(super) async fn run(
    sending: Sending<'_>,
    call: &mut Call<'_>,
    arguments: &mut dyn Unsent,
) -> Result<Reply, RpcError> {
    let deadline = call.deadline();
    let attempts = Mutex::new(Attempts::new(arguments));
    let mut end = SendingEnd { sending, attempts: &attempts, running: None };
    let outcome = {
        let mut run = sending.client.interceptors.before(&mut end).run(call);
        let mut timer = None;
        poll_fn(|cx| {
            let _inside = sending.span.enter();
            locked(&attempts).waits = false;
            let poll = AssertUnwindSafe(|| Pin::new(&mut run).poll(cx));
            let poll = catch_unwind(poll).unwrap_or_else(|_| Poll::Ready(Err(panicked(&sending))));
            // The connection enforces the deadline while it has the call. Otherwise an interceptor
            // waits for something else.
            if poll.is_pending() && !locked(&attempts).waits {
                return poll_deadline(&mut timer, &sending, deadline, cx).map(Err);
            }
            poll
        })
        .await
    };
    // Not from the mark of the error: an interceptor's own error has none, and that of the last run
    // does not cover the runs before.
    outcome.map_err(|error| match locked(&attempts).may_have_run() {
        true => error.maybe_executed(),
        false => error.unexecuted(),
    })
}

/// Waits for the deadline; `timer` is made when it is first needed.
fn poll_deadline(
    timer: &mut Option<Pin<Box<Sleep>>>,
    sending: &Sending<'_>,
    deadline: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<RpcError> {
    let Some(deadline) = deadline else { return Poll::Pending };
    let timer = timer.get_or_insert_with(|| {
        // The caller need not be in a runtime.
        let _inside = sending.client.picker.settings().runtime.enter();
        Box::pin(sleep_until(deadline.into()))
    });
    ready!(timer.as_mut().poll(cx));
    Poll::Ready(RpcError::timeout("the deadline passed while an interceptor of the client waited"))
}

/// The panic hook has printed the text, which reveals details of this process.
fn panicked(sending: &Sending<'_>) -> RpcError {
    limited!(error, method = %sending.target.method, "an interceptor of a client panicked");
    RpcError::internal("an interceptor of the client panicked")
}

/// The arguments, and the state of all runs so far.
struct Attempts<'a> {
    arguments: &'a mut dyn Unsent,
    /// Another run may follow, which needs the arguments.
    keep: bool,
    /// The current run was sent.
    sent: bool,
    /// The provider may have executed a run that is over.
    executed: bool,
    /// The current run was polled and is pending.
    waits: bool,
}

impl<'a> Attempts<'a> {
    fn new(arguments: &'a mut dyn Unsent) -> Self {
        Self { arguments, keep: false, sent: false, executed: false, waits: false }
    }

    /// A run has ended; `None` if it was cancelled.
    fn ended(&mut self, outcome: Option<&Result<Reply, RpcError>>) {
        let sent = std::mem::take(&mut self.sent);
        self.executed |= match outcome {
            None => sent,
            Some(Ok(_)) => true,
            Some(Err(error)) => !error.is_unexecuted(),
        };
    }

    /// Whether the provider may have executed the call. A run that an interceptor has leaked is
    /// still under way.
    fn may_have_run(&self) -> bool {
        self.executed || self.sent
    }
}

/// Only a user's `Serialize` may panic under the lock, and it leaves the state consistent.
fn locked<'l, 'a>(attempts: &'l Mutex<Attempts<'a>>) -> MutexGuard<'l, Attempts<'a>> {
    attempts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arguments of a run, which all runs of a call share.
struct RunArguments<'e, 'a>(&'e Mutex<Attempts<'a>>);

impl Unsent for RunArguments<'_, '_> {
    fn encode(&mut self, form: Form, out: &mut Output) -> Result<Form, RpcError> {
        locked(self.0).arguments.encode(form, out)
    }

    fn sent(&mut self) {
        let mut attempts = locked(self.0);
        attempts.sent = true;
        if !attempts.keep {
            attempts.arguments.sent();
        }
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sends the call behind the last interceptor. A run is boxed: only calls with interceptors pay
/// for it.
struct SendingEnd<'e, 'a> {
    sending: Sending<'e>,
    attempts: &'e Mutex<Attempts<'a>>,
    running: Option<BoxFuture<'e, Result<Reply, RpcError>>>,
}

impl End for SendingEnd<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>, call: &mut Call<'_>) -> Poll<Result<Reply, RpcError>> {
        let Self { sending, attempts, running } = self;
        let run = running.get_or_insert_with(|| {
            let (sending, call, mut arguments) =
                (*sending, call.detached(), RunArguments(attempts));
            Box::pin(async move { sending.send(&call, clock(), &mut arguments).await })
        });
        let Poll::Ready(outcome) = run.as_mut().poll(cx) else {
            locked(attempts).waits = true;
            return Poll::Pending;
        };
        *running = None;
        locked(attempts).ended(Some(&outcome));
        Poll::Ready(outcome)
    }

    fn cancel(&mut self) {
        if self.running.take().is_some() {
            locked(self.attempts).ended(None);
        }
    }

    fn keep(&mut self) {
        locked(self.attempts).keep = true;
    }
}
