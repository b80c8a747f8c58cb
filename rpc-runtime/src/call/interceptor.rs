//! [`Interceptor`] and [`Next`]: what runs before and after a call, and how it goes on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::reply::Reply;
use super::request::Call;
use crate::error::RpcError;

/// What runs before and after each call of a client, or of a server or one of its services.
///
/// An interceptor goes on with [`Next::run`]. Before that it can look at the call and change it;
/// after it, the [`Reply`] or the error. It refuses a call by returning an error without going on,
/// and answers it with a reply of its own. The [first](crate::Interceptors) is the outermost: it
/// sees a call first and its outcome last.
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
/// An error of the contract is a reply with [`Status::Application`](crate::Status::Application), not
/// an `Err`. The `Err` of an interceptor is what the caller gets. If no part of the call was sent,
/// or if the method was not reached, it is [safe to retry](RpcError::is_safe_to_retry). A panic ends
/// its call as [internal](RpcError::is_internal).
///
/// # Cancel safety
///
/// When the caller drops a call, the future of each interceptor is dropped where it waits. So is
/// that of a server when the caller is gone or the deadline has passed.
///
/// # Cost
///
/// Each interceptor of a call allocates its future. Without interceptors a call allocates nothing
/// for them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interceptor",
    label = "does not implement `Interceptor`",
    note = "implement it with `async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> rpc_runtime::Result<Reply>`"
)]
pub trait Interceptor: Send + Sync + 'static {
    /// Takes part in `call`. Implement it as an `async fn`.
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

/// An [`Interceptor`] of any type. Its box is the one allocation.
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

/// What is behind the last interceptor: sending at a client, the method at a server.
///
/// It is given the call with each poll, so it borrows nothing of it.
pub(crate) trait End: Send {
    /// The first poll starts a run, the next ones go on with it. After its outcome, a poll starts
    /// the next run, or says why there cannot be one.
    fn poll(&mut self, cx: &mut Context<'_>, call: &mut Call<'_>) -> Poll<Result<Reply, RpcError>>;

    /// Ends a run before its outcome. Without one, it does nothing.
    fn cancel(&mut self);

    /// Another run may follow: what it needs is to be kept.
    fn keep(&mut self) {}
}

/// The rest of a call's way: the interceptors behind this one, and then the provider or the method.
pub struct Next<'a> {
    rest: &'a [Arc<dyn DynInterceptor>],
    end: &'a mut dyn End,
}

impl<'a> Next<'a> {
    pub(super) fn new(rest: &'a [Arc<dyn DynInterceptor>], end: &'a mut dyn End) -> Self {
        Self { rest, end }
    }

    /// A rest of the way that only calls `answer`, for a unit test of an interceptor.
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

    /// Goes on with the call. Dropping the future cancels what it has begun.
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

    /// The same rest of the way, for an interceptor that may go on more than once: with
    /// `next.again().run(call)` first, and `next.run(call)` the last time.
    ///
    /// At a client each run is another request. The arguments are kept until the last one, and their
    /// `Serialize` may run for each. Run again only what is
    /// [safe to retry](RpcError::is_safe_to_retry). Arguments with a stream cannot be sent a second
    /// time, and at a server a method runs once: another run is an [internal](RpcError::is_internal)
    /// error.
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

/// A call that goes on; made by [`Next::run`].
#[must_use = "the call goes on only if this is awaited"]
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
