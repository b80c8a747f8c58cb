//! [`Layered`]: tower's layers around a call.

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use ::tower::load_shed::error::Overloaded;
use ::tower::timeout::error::Elapsed;
use ::tower::{BoxError, Layer, Service};
use tokio::sync::{mpsc, oneshot};

use crate::call::{Call, Interceptor, Next, Reply};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::status::Status;

/// A stack of tower's layers around each call, as an [`Interceptor`].
///
/// The stack is built once and shared by all calls, so a concurrency limit applies to all of them
/// together. It must be `Clone`. Wrap services that are not, such as a rate limit, in tower's
/// `Buffer`.
///
/// ```
/// use std::time::Duration;
///
/// use rpc_runtime::Client;
/// use rpc_runtime::tower::Layered;
/// use tower::ServiceBuilder;
///
/// # async fn connect() -> rpc_runtime::Result<()> {
/// let layers = ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(64)
///     .timeout(Duration::from_millis(300))
///     .into_inner();
/// let client = Client::builder()
///     .interceptor(Layered::new(layers))
///     .connect("tcp://127.0.0.1:9000")
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// An [`RpcError`] passes unchanged. Errors of layers become an [`RpcError`] with the error as its
/// source: a timeout [`is_timeout`](RpcError::is_timeout), `load_shed`
/// [`is_overloaded`](RpcError::is_overloaded), any other [`is_internal`](RpcError::is_internal).
///
/// A layer may call its inner service more than once, but not concurrently; see [`Next::again`]. In
/// a policy for tower's `Retry`, check [`is_safe_to_retry`](RpcError::is_safe_to_retry).
///
/// # Cost
///
/// About five allocations and a thousand or more instructions for each call, independent of the
/// stack. A plain [`Interceptor`] takes one allocation.
pub struct Layered<S>(Mutex<S>);

impl<S> Layered<S> {
    /// An interceptor that applies `layers`.
    pub fn new<L: Layer<Rest, Service = S>>(layers: L) -> Self {
        Self(Mutex::new(layers.layer(Rest(()))))
    }
}

impl<S> fmt::Debug for Layered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").finish_non_exhaustive()
    }
}

/// A call as tower's layers see it. Metadata that a layer sets is passed on with the call.
#[derive(Clone)]
pub struct LayerCall {
    method: &'static MethodDescriptor,
    metadata: Metadata,
    deadline: Option<Instant>,
    /// To the interceptor, which continues the call.
    back: mpsc::Sender<Continue>,
}

/// A request to continue the call with this metadata.
struct Continue {
    metadata: Metadata,
    outcome: oneshot::Sender<Result<Reply, RpcError>>,
}

impl LayerCall {
    /// The called method.
    pub fn method(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// Deadline of the call.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The metadata value for `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Sets a metadata value.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }
}

impl fmt::Debug for LayerCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerCall")
            .field("method", &format_args!("{}", self.method))
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// The innermost service of a [`Layered`] stack: the rest of the chain. Always ready.
#[derive(Clone, Debug)]
pub struct Rest(());

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<LayerCall> for Rest {
    type Response = Reply;
    type Error = RpcError;
    type Future = BoxFuture<Result<Reply, RpcError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: LayerCall) -> Self::Future {
        Box::pin(async move {
            let gone = || RpcError::new(Status::Cancelled, "the call was dropped");
            let (outcome, told) = oneshot::channel();
            let resume = Continue { metadata: call.metadata, outcome };
            call.back.send(resume).await.map_err(|_| gone())?;
            told.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

impl<S> Interceptor for Layered<S>
where
    S: Service<LayerCall, Response = Reply> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// The service's future is `'static` and may run in another task, so it requests this future to
    /// continue the call.
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply, RpcError> {
        let (back, mut asked) = mpsc::channel(1);
        let request = LayerCall {
            method: call.method(),
            metadata: call.entries().map(|metadata| Metadata::clone(metadata)).unwrap_or_default(),
            deadline: call.deadline(),
            back,
        };
        let service = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut outer = pin!(ready_then_call(service, request));
        loop {
            let Continue { metadata, mut outcome } = tokio::select! {
                biased;
                result = &mut outer => return result.map_err(from_tower),
                Some(resume) = asked.recv() => resume,
            };
            call.replace_metadata(metadata);
            let mut inner = pin!(next.again().run(call));
            let reply = tokio::select! {
                biased;
                // The stack has finished without the reply: the rest of the call is cancelled.
                result = &mut outer => return result.map_err(from_tower),
                // Nor does the layer that asked for it, which may ask for another.
                () = outcome.closed() => continue,
                reply = &mut inner => reply,
            };
            // The receiver may be gone.
            let _ = outcome.send(reply);
        }
    }
}

async fn ready_then_call<S: Service<LayerCall>>(
    mut service: S,
    call: LayerCall,
) -> Result<S::Response, S::Error> {
    poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(call).await
}

fn from_tower(error: impl Into<BoxError>) -> RpcError {
    let error = match error.into().downcast::<RpcError>() {
        Ok(own) => return *own,
        Err(error) => error,
    };
    let error: &(dyn Error + 'static) = &*error;
    let (status, message) = if error.is::<Elapsed>() {
        (Status::Timeout, "the timeout of a layer passed")
    } else if error.is::<Overloaded>() {
        (Status::Overloaded, "a layer has no room for the call")
    } else {
        (Status::Internal, "a layer failed")
    };
    RpcError::new(status, message).with_source(error)
}
