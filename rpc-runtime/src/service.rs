//! [`Service`]: the interface of generated dispatchers.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::budget::Claim;
use crate::call::{Items, Source};
use crate::connection::IncomingStream;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::protocol::messagepack::NotDecoded;
use crate::protocol::payload::{self, Arguments, Form, Wire};
use crate::protocol::{DecodeLimits, Output, blob};
use crate::shape::{self, Shape};
use crate::status::Status;
use crate::streaming::{self, Collected};
use pin_project_lite::pin_project;

/// A service that a server can provide. `#[rpc_service]` implements it for the generated `…Server`
/// types; do not implement it manually.
pub trait Service: Send + Sync + 'static {
    /// The descriptor of the contract.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// The id of each method, and the fingerprint of what goes in and comes out: two ends that have
    /// the same may write structs without field names. 0 stands for one that is not known, and a
    /// method that is missing here counts as such.
    fn fingerprints(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    /// Decodes the arguments and makes the call's future. Nothing of the method runs yet.
    fn dispatch(&self, request: Request<'_>) -> Dispatched;
}

/// A request, as generated code sees it.
pub struct Request<'a> {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) arguments: &'a [u8],
    /// What they are a part of, if parts of that may be kept.
    pub(crate) payload: Option<&'a Bytes>,
    pub(crate) form: Form,
    pub(crate) limits: DecodeLimits,
    /// For an argument that is a stream.
    pub(crate) stream: Option<IncomingStream>,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &format_args!("{}", self.method))
            .field("argument_bytes", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

impl Request<'_> {
    /// Id of the requested method.
    #[inline]
    pub fn method_id(&self) -> u64 {
        self.method.id()
    }
}

/// The result of dispatching a request: a call to be polled, or the reason why there is none.
pub type Dispatched = Result<BoxCall, NotDispatched>;

/// Why a request was not dispatched. The method has not run.
#[derive(Debug)]
pub struct NotDispatched {
    /// The answer to the request.
    pub(crate) error: RpcError,
    /// If the arguments take more memory than the limit: what is needed to decode them again.
    pub(crate) over_memory: Option<OverMemory>,
}

/// A request whose arguments take more memory than the limit.
#[derive(Debug)]
pub(crate) struct OverMemory {
    pub(crate) stream: Option<IncomingStream>,
}

impl From<NotDispatched> for RpcError {
    fn from(not_dispatched: NotDispatched) -> Self {
        not_dispatched.error
    }
}

/// A running call. Like a future, but its result is encoded into the buffer that it is polled with.
pub struct BoxCall {
    call: Pin<Box<dyn RunningCall>>,
    /// Memory of the arguments, in bytes.
    memory: usize,
}

/// How a call ended: the value (`Status::Ok`) or the contract's error (`Status::Application`) has
/// been appended to the buffer; the items of a stream are to follow.
pub(crate) struct Finished {
    pub(crate) status: Status,
    /// In which the value is written.
    pub(crate) form: Form,
    pub(crate) stream: Option<Box<dyn Source>>,
    /// Of the reply.
    pub(crate) metadata: Option<Box<Metadata>>,
}

impl BoxCall {
    #[inline]
    pub(crate) fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Output,
    ) -> Poll<Result<Finished, RpcError>> {
        self.call.as_mut().poll_into(cx, out)
    }

    pub(crate) fn new(call: impl RunningCall + 'static) -> Self {
        Self { call: Box::pin(call), memory: 0 }
    }

    /// Memory of the arguments, in bytes. It can grow with a poll while they are not decoded.
    pub(crate) fn memory(&self) -> usize {
        self.memory.max(self.call.arguments())
    }

    /// Memory of arguments that were decoded when the call was dispatched.
    #[inline]
    pub(crate) fn dispatched_memory(&self) -> usize {
        self.memory
    }

    /// Runs the method and keeps its result; [`poll_into`](Self::poll_into) is then ready. For
    /// calls that wait for memory for their responses.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.call.as_mut().poll_ready(cx)
    }

    /// The memory that is reserved for the response of a call that is [ready](Self::poll_ready).
    pub(crate) fn take_room(&mut self) -> Option<Claim> {
        self.call.as_mut().take_room()
    }
}

/// A call of any type.
pub(crate) trait RunningCall: Send {
    fn poll_into(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Output,
    ) -> Poll<Result<Finished, RpcError>>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;

    /// Memory of arguments that are decoded as late as in a poll, in bytes.
    fn arguments(&self) -> usize {
        0
    }

    /// The memory that is reserved for the response.
    fn take_room(self: Pin<&mut Self>) -> Option<Claim> {
        None
    }
}

pin_project! {
    struct Unary<F, T, E> {
        form: Form,
        #[pin]
        stage: Stage<F, T, E>,
    }
}

pin_project! {
    #[project = StageProjected]
    enum Stage<F, T, E> {
        Running { #[pin] future: F },
        // `None` once it is encoded.
        Returned { result: Option<Result<T, E>> },
    }
}

impl<F, T, E> RunningCall for Unary<F, T, E>
where
    F: Future + Send,
    F::Output: Outcome<Ok = T, Err = E>,
    T: Wire,
    E: Wire,
{
    #[inline]
    fn poll_into(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut Output,
    ) -> Poll<Result<Finished, RpcError>> {
        let this = self.project();
        let result = match this.stage.project() {
            StageProjected::Running { future } => ready!(future.poll(cx)).into_result(),
            StageProjected::Returned { result } => match result.take() {
                Some(result) => result,
                None => return Poll::Pending,
            },
        };
        Poll::Ready(encode(result, *this.form, out))
    }

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut stage = self.project().stage;
        if let StageProjected::Running { future } = stage.as_mut().project() {
            let result = Some(ready!(future.poll(cx)).into_result());
            stage.set(Stage::Returned { result });
        }
        Poll::Ready(())
    }
}

#[inline]
fn encode<T: Wire, E: Wire>(
    result: Result<T, E>,
    form: Form,
    out: &mut Output,
) -> Result<Finished, RpcError> {
    let mut collected = Collected::default();
    let encoded = streaming::collect(&mut collected, || match result {
        Ok(value) => payload::encode(&value, form, out).map(|form| (Status::Ok, form)),
        Err(error) => payload::encode(&error, form, out).map(|form| (Status::Application, form)),
    });
    let stream = collected.source;
    encoded.map(|(status, form)| Finished { status, form, stream, metadata: None })
}

/// A remote method as a type: what goes in and what comes out.
///
/// The bounds are on the associated types, so generated code meets them in one place, the `impl`
/// that `#[rpc_service]` writes for each method. Stub and dispatcher only ask for a `Method`, so a
/// type that cannot travel is one error, and not one for each of its uses.
pub trait Method {
    /// Name, id and options.
    const DESCRIPTOR: &'static MethodDescriptor;
    /// All arguments, as a tuple.
    type Arguments: Arguments;
    /// What the method returns.
    type Outcome: Outcome;
}

/// The fingerprint of the shapes of arguments and result; 0 if they cannot be traced whole.
///
/// Found out once in a process, which may take some milliseconds for a large type.
pub(crate) fn fingerprint<M: Method>() -> u64 {
    type Ok<M> = <<M as Method>::Outcome as Outcome>::Ok;
    type Err<M> = <<M as Method>::Outcome as Outcome>::Err;
    static KNOWN: Mutex<BTreeMap<TypeId, u64>> = Mutex::new(BTreeMap::new());

    let types = TypeId::of::<(M::Arguments, Ok<M>, Err<M>)>();
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known().get(&types) {
        return *known;
    }
    // Not under the lock, since it runs a user's code.
    let parts =
        || Some(vec![M::Arguments::shape()?, shape::of::<Ok<M>>()?, shape::of::<Err<M>>()?]);
    let fingerprint = parts().map_or(0, |parts| Shape::Tuple(parts).fingerprint());
    known().insert(types, fingerprint);
    fingerprint
}

/// A method's id and its fingerprint.
pub fn fingerprint_of<M: Method>() -> (u64, u64) {
    (M::DESCRIPTOR.id(), fingerprint::<M>())
}

/// A oneway method.
pub trait Oneway: Method<Outcome: Outcome<Ok = ()>> {}

/// A call of one request and one answer: decodes the arguments and gives them to `handler`.
#[inline]
pub fn unary<M, F, Fut>(request: Request<'_>, handler: F) -> Dispatched
where
    M: Method,
    F: FnOnce(M::Arguments) -> Fut,
    Fut: Future<Output = M::Outcome> + Send + 'static,
{
    let Request { method, arguments, payload, form, limits, stream } = request;
    let decode =
        || blob::decoding(payload, || M::Arguments::decode(arguments, method.arguments(), limits));
    // The failed arguments may have taken the stream with them.
    let again = stream.clone();
    let stream = stream.map(|stream| Box::new(stream) as Box<dyn Items>);
    let arguments = match streaming::offer(stream, decode) {
        Ok(arguments) => arguments,
        Err(not_decoded) => return Err(not_dispatched(not_decoded, again)),
    };
    drop(again);
    let stage = Stage::Running { future: handler(arguments.value) };
    Ok(BoxCall { call: Box::pin(Unary { form, stage }), memory: arguments.charged })
}

#[cold]
fn not_dispatched(why: NotDecoded, stream: Option<IncomingStream>) -> NotDispatched {
    let NotDecoded { error, over_memory } = why;
    let over_memory = over_memory.then_some(OverMemory { stream });
    NotDispatched { error: error.unexecuted(), over_memory }
}

/// The response to a request for an unknown method.
pub fn unknown_method(request: Request<'_>) -> Dispatched {
    let why = format!("{} is not provided here", request.method);
    let error = RpcError::new(Status::NotFound, why).unexecuted();
    Err(NotDispatched { error, over_memory: None })
}

/// Return type of a remote method: `Result<T, E>` with serde types, where `E` implements
/// `From<RpcError>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the return type of a remote method",
    label = "a remote method returns `Result<T, E>` where `E: From<RpcError>`",
    note = "a call can always fail on the way, so the caller must be told: use `rpc_runtime::Result<T>`, or an error type of your own with `impl From<RpcError>`",
    note = "`T` and `E` need `Serialize + DeserializeOwned + Send`"
)]
pub trait Outcome: Sized {
    /// The value.
    type Ok: Wire;
    /// The contract's error.
    type Err: From<RpcError> + Wire;

    /// As a plain `Result`.
    fn into_result(self) -> Result<Self::Ok, Self::Err>;

    /// From a plain `Result`.
    fn from_result(result: Result<Self::Ok, Self::Err>) -> Self;
}

impl<T, E> Outcome for Result<T, E>
where
    T: Wire,
    E: From<RpcError> + Wire,
{
    type Ok = T;
    type Err = E;

    fn into_result(self) -> Self {
        self
    }

    fn from_result(result: Self) -> Self {
        result
    }
}
