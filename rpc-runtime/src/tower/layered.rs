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
/// The stack is built once and shared by all calls: a concurrency limit in it is one for all of
/// them. It must be `Clone`; put tower's `Buffer` above what is not, a rate limit for instance.
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
/// An [`RpcError`] passes unchanged. Errors of tower's own become one: of a timeout
/// [`is_timeout`](RpcError::is_timeout), of `load_shed` [`is_overloaded`](RpcError::is_overloaded),
/// any other [`is_internal`](RpcError::is_internal), with the error as its source.
///
/// A layer may call the service behind it more than once, one call after the other:
/// [`Next::again`] says what that means. Tower's `Retry` knows nothing of
/// [`is_safe_to_retry`](RpcError::is_safe_to_retry); ask it in its policy.
///
/// # Cost
///
/// A call takes about five allocations and some thousand instructions more, whatever the stack is.
/// An [`Interceptor`] takes one allocation.
pub struct Layered<S>(Mutex<S>);

impl<S> Layered<S> {
    /// The stack of `layers`.
    pub fn new<L: Layer<Rest, Service = S>>(layers: L) -> Self {
        Self(Mutex::new(layers.layer(Rest(()))))
    }
}

impl<S> fmt::Debug for Layered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").finish_non_exhaustive()
    }
}

/// A call, as tower's layers see it. Metadata that a layer sets is that of the call from there on.
#[derive(Clone)]
pub struct LayerCall {
    method: &'static MethodDescriptor,
    metadata: Metadata,
    deadline: Option<Instant>,
    /// To the interceptor, which goes on with the call.
    back: mpsc::Sender<GoOn>,
}

/// Goes on with the call, with this metadata.
struct GoOn {
    metadata: Metadata,
    outcome: oneshot::Sender<Result<Reply, RpcError>>,
}

impl LayerCall {
    /// The method that is called.
    pub fn method(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The text under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Sets the text under `key`.
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

/// The innermost service of a [`Layered`] stack: the rest of the call's way. Always ready.
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
            let go_on = GoOn { metadata: call.metadata, outcome };
            call.back.send(go_on).await.map_err(|_| gone())?;
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
    /// The service's future may be `'static` and may even run in another task, so it asks this one
    /// to go on with the call.
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
            let GoOn { metadata, mut outcome } = tokio::select! {
                biased;
                result = &mut outer => return result.map_err(from_tower),
                Some(go_on) = asked.recv() => go_on,
            };
            call.replace_metadata(metadata);
            let mut inner = pin!(next.again().run(call));
            let reply = tokio::select! {
                biased;
                // They wait no longer: the run is cancelled.
                result = &mut outer => return result.map_err(from_tower),
                // Nor does the layer that asked for it, which may ask for another.
                () = outcome.closed() => continue,
                reply = &mut inner => reply,
            };
            // It may have stopped waiting just now.
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
