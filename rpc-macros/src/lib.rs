//! The attribute macro `#[rpc_service]`, which generates a client stub and a server dispatcher from
//! a trait.
//!
//! Use it as `rpc_runtime::rpc_service`; the runtime re-exports it.

mod ast;
mod attr;
mod check;
mod errors;
mod expand;
mod read;

use proc_macro::TokenStream;

/// Makes a trait the contract of a remote service, with a client stub and a server dispatcher.
///
/// For a trait `HelloService` it generates `HelloServiceClient`, a stub that implements the trait
/// by remote calls; `HelloServiceServer`, which serves any implementation; and
/// `HELLO_SERVICE_DESCRIPTOR`, which describes the methods.
///
/// An example is in the documentation of `rpc_runtime::rpc_service`.
///
/// # Methods
///
/// A method without a body is remote. It is `async`, takes `&self` and up to sixteen owned
/// arguments of serde types, and returns a `Result<T, E>` with `E: From<RpcError>`. This is either
/// `rpc_runtime::Result<T>`, or a result with the contract's own error type, which the caller
/// receives as the provider returned it. A method with a body is a local helper: it runs where it
/// is called and may have any signature.
///
/// The trait is not `dyn` compatible, since each method returns its own future type. Code that
/// accepts any implementation is generic: `impl HelloService`.
///
/// Use `rpc_runtime::Streaming<T>` as an argument, as the result, or both, to send many values.
///
/// Type parameters of the trait must be serde types if they are sent, so write the bounds on the
/// trait: `trait Store<V: Serialize + DeserializeOwned + Send + 'static>`.
///
/// # Options of the service
///
/// | key | default | meaning |
/// | --- | --- | --- |
/// | `name = "acme.Hello"` | name of the trait | name in the registry and on the wire |
/// | `version = "1.2.0"` | `"1.0.0"` | version of the contract, three numbers |
/// | `group = "blue"` | `""` | separates deployments of one service |
/// | `crate = path` | `::rpc_runtime` | path of the runtime, if renamed or re-exported |
///
/// # Options of a method
///
/// Write them in `#[rpc(…)]` above a method:
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "…"` | name on the wire, so that the method can be renamed |
/// | `idempotent` | running it twice has the same effect as once, so it may be retried |
/// | `oneway` | there is no response; the result is `Result<()>` |
/// | `timeout = "200ms"` | default timeout of the method; `ms`, `s` or `m`, at most 24 hours |
/// | `inline` | for methods with little work between awaits: begins in the task of the connection (the default) |
/// | `spawn` | for methods that compute for more than a few hundred microseconds: runs in a separate task |
/// | `blocking` | for methods that block the thread: runs on a blocking thread of the server |
///
/// With `#[rpc(default)]` before an argument, a caller with an older contract can omit it, and the
/// provider gets `Default::default()`. An `Option` does not need it.
///
/// # Expansion
///
/// Shortened and without paths; `tests/expansion/hello_service.rs` has the full text.
///
/// | input | expansion |
/// | --- | --- |
/// | `trait HelloService {` | `trait HelloService: Send + Sync + 'static {` |
/// | `async fn hello(&self, name: String) -> R;` | `fn hello(&self, name: String) -> impl Future<Output = R> + Send;` |
/// | | `struct HelloServiceClient` with `new`, `connect`, `discover`, `with_timeout`, `with_encoding`, `with_wait_for_ready`, `with_interceptor`, `with_metadata` |
/// | | `impl HelloService for HelloServiceClient { fn hello(…) { call::<__method_hello>(&self.__client, (name,)) } }` |
/// | | `struct HelloServiceServer<S>` with `new`, `from_arc` |
/// | | `impl Service for HelloServiceServer<S> { fn dispatch(…) { match request.method_id() { … } } }` |
/// | | `const HELLO_SERVICE_DESCRIPTOR: ServiceDescriptor` |
/// | | `struct __method_hello; impl Method for __method_hello { type Arguments = (String,); type Outcome = R; … }` |
///
/// The futures are `Send`, so a call can be spawned. Implementations still write `async fn`.
/// Attributes such as docs and `deprecated` stay on the trait. A `cfg` on a method applies to all
/// items generated for it.
#[proc_macro_attribute]
pub fn rpc_service(args: TokenStream, input: TokenStream) -> TokenStream {
    expand::rpc_service(args.into(), input.into()).into()
}
