//! [`Interceptor`], and [`Next`], the rest of the chain.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::reply::Reply;
use super::request::Call;
use crate::error::RpcError;

/// Code that runs before and after each call of a client, of a server or of one of its services.
///
/// [`Next::run`] continues the call. Before it, an interceptor can read and change the [`Call`];
/// after it, the [`Reply`] or the error. To refuse a call, return an error without running `next`;
/// to answer it, return your own reply. The [first](crate::Interceptors) interceptor is the
/// outermost: it sees a call first and its outcome last.
///
/// ```
/// use rpc_runtime::{Call, Interceptor, Next, Reply, Result};
///
/// /// Sends a token along with each call.
/// struct Bearer(String);
///
/// impl Interceptor for Bearer {
///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
///         call.set_metadata("authorization", format!("Bearer {}", self.0));
///         let reply = next.run(call).await?;
///         tracing::debug!(method = %call.method(), peer = ?reply.peer());
///         Ok(reply)
///     }
/// }
/// ```
///
/// # Errors and panics
///
/// An error of the contract is a reply with [`Status::Application`](crate::Status::Application),
/// not an `Err`. The caller gets the `Err` that an interceptor returns. It is [safe to
/// retry](RpcError::is_safe_to_retry) if no part of the call was sent, or if the method was not
/// reached. A panic fails its call as [internal](RpcError::is_internal).
///
/// # Cancel safety
///
/// When the caller drops a call, the future of each interceptor is dropped at its current await. At
/// a server this also happens when the caller is gone or the deadline has passed.
///
/// # Cost
///
/// One allocation for the future of each interceptor; none without interceptors.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interceptor",
    label = "does not implement `Interceptor`",
    note = "implement it with `async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> rpc_runtime::Result<Reply>`"
)]
pub trait Interceptor: Send + Sync + 'static {
    /// Intercepts `call`. Implement it as an `async fn`.
    fn intercept(
        &self,
        call: &mut Call<'_>,
        next: Next<'_>,
    ) -> impl Future<Output = Result<Reply, RpcError>> + Send;
}

impl<I: Interceptor> Interceptor for Arc<I> {
    fn intercept(
        &self,
        call: &mut Call<'_>,
        next: Next<'_>,
    ) -> impl Future<Output = Result<Reply, RpcError>> + Send {
        I::intercept(self, call, next)
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An [`Interceptor`] as a trait object. The box is its only allocation.
pub(super) trait DynInterceptor: Send + Sync {
    fn intercept_boxed<'a>(
        &'a self,
        call: &'a mut Call<'_>,
        next: Next<'a>,
    ) -> BoxFuture<'a, Result<Reply, RpcError>>;
}

impl<I: Interceptor> DynInterceptor for I {
    fn intercept_boxed<'a>(
        &'a self,
        call: &'a mut Call<'_>,
        next: Next<'a>,
    ) -> BoxFuture<'a, Result<Reply, RpcError>> {
        Box::pin(self.intercept(call, next))
    }
}

/// The end of the chain: a client sends the call, a server runs the method.
///
/// It gets the call with each poll, so it borrows nothing from it.
pub(crate) trait End: Send {
    /// The first poll starts a run, further polls continue it. A poll after the outcome starts the
    /// next run, or returns an error if there cannot be one.
    fn poll(&mut self, cx: &mut Context<'_>, call: &mut Call<'_>) -> Poll<Result<Reply, RpcError>>;

    /// Cancels the current run, if there is one.
    fn cancel(&mut self);

    /// Another run may follow, so the arguments must be kept.
    fn keep(&mut self) {}
}

/// The rest of the chain: the interceptors behind this one, then the provider or the method.
pub struct Next<'a> {
    rest: &'a [Arc<dyn DynInterceptor>],
    end: &'a mut dyn End,
}

impl<'a> Next<'a> {
    pub(super) fn new(rest: &'a [Arc<dyn DynInterceptor>], end: &'a mut dyn End) -> Self {
        Self { rest, end }
    }

    /// A chain that only calls `answer`, for unit tests of interceptors.
    ///
    /// ```
    /// use rpc_runtime::{Call, Interceptor, Next, Reply, Result, RpcError};
    /// # use rpc_runtime::{MethodDescriptor, ServiceKey};
    ///
    /// struct RequireTenant;
    ///
    /// impl Interceptor for RequireTenant {
    ///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
    ///         match call.metadata("tenant") {
    ///             Some(_) => next.run(call).await,
    ///             None => Err(RpcError::invalid("a tenant is needed")),
    ///         }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # const METHOD: &MethodDescriptor =
    /// #     &MethodDescriptor::new(ServiceKey::new("Echo", "1.0.0", ""), "echo", &[], "");
    /// // `HELLO_SERVICE_DESCRIPTOR.methods()` has the methods of a contract.
    /// let mut call = Call::for_test(METHOD);
    /// let mut answer = |_: &mut Call<'_>| Reply::value("hello");
    /// let refused = RequireTenant.intercept(&mut call, Next::answering(&mut answer)).await;
    /// assert!(refused.unwrap_err().is_invalid());
    ///
    /// call.set_metadata("tenant", "acme");
    /// let reply = RequireTenant.intercept(&mut call, Next::answering(&mut answer)).await;
    /// assert_eq!(reply.unwrap().decode::<String>().unwrap(), "hello");
    /// # }
    /// ```
    pub fn answering<F>(answer: &'a mut F) -> Self
    where
        F: FnMut(&mut Call<'_>) -> Result<Reply, RpcError> + Send,
    {
        Self { rest: &[], end: answer }
    }

    /// Continues the call. Dropping the future cancels the call.
    pub fn run<'b, 'c>(self, call: &'b mut Call<'c>) -> Run<'b, 'c>
    where
        'a: 'b,
    {
        // `Next` is invariant in its lifetime, and the call is borrowed for less.
        let end: &'b mut (dyn End + 'b) = self.end;
        Run(match self.rest.split_first() {
            Some((first, rest)) => {
                Stage::Interceptor(first.intercept_boxed(call, Next { rest, end }))
            }
            None => Stage::End { call, end },
        })
    }

    /// The same rest of the chain, for an interceptor that may run it more than once, for instance
    /// to retry: use `next.again().run(call)`, and `next.run(call)` for the last run.
    ///
    /// At a client each run is a new request. The arguments are kept until the last run, and their
    /// `Serialize` may run for each. Repeat only calls that are idempotent or whose error is
    /// [safe to retry](RpcError::is_safe_to_retry).
    ///
    /// # Errors
    /// At a client, a second run fails if the arguments have a stream. At a server, a method runs
    /// once: a second run fails as [internal](RpcError::is_internal).
    pub fn again(&mut self) -> Next<'_> {
        self.end.keep();
        Next { rest: self.rest, end: &mut *self.end }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("interceptors", &self.rest.len()).finish_non_exhaustive()
    }
}

/// An end for unit tests.
impl<F> End for F
where
    F: FnMut(&mut Call<'_>) -> Result<Reply, RpcError> + Send,
{
    fn poll(&mut self, _: &mut Context<'_>, call: &mut Call<'_>) -> Poll<Result<Reply, RpcError>> {
        Poll::Ready(self(call))
    }

    fn cancel(&mut self) {}
}

/// The future of [`Next::run`].
#[must_use = "futures do nothing unless awaited"]
pub struct Run<'a, 'c>(Stage<'a, 'c>);

enum Stage<'a, 'c> {
    Interceptor(BoxFuture<'a, Result<Reply, RpcError>>),
    End { call: &'a mut Call<'c>, end: &'a mut dyn End },
    Done,
}

impl Future for Run<'_, '_> {
    type Output = Result<Reply, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.0 {
            Stage::Interceptor(future) => future.as_mut().poll(cx),
            Stage::End { call, end } => end.poll(cx, call),
            // A call never hangs, not even when it is awaited in the wrong way.
            Stage::Done => Poll::Ready(Err(RpcError::internal("this run of the call is over"))),
        };
        if outcome.is_ready() {
            self.0 = Stage::Done;
        }
        outcome
    }
}

impl Drop for Run<'_, '_> {
    fn drop(&mut self) {
        if let Stage::End { end, .. } = &mut self.0 {
            end.cancel();
        }
    }
}

impl fmt::Debug for Run<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
