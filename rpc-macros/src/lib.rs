//! `#[rpc_service]`: a trait becomes a client stub and a server dispatcher at compile time.
//!
//! Use it through the runtime, which re-exports it: `rpc_runtime::rpc_service`.

mod ast;
mod attr;
mod check;
mod errors;
mod expand;
mod read;

use proc_macro::TokenStream;

/// Makes a trait the contract of a remote service.
///
/// Beside the trait `HelloService` it writes `HelloServiceClient`, a stub that implements the
/// trait by calling; `HelloServiceServer`, which serves any implementation; and
/// `HELLO_SERVICE_DESCRIPTOR`, which tells what the service offers.
///
/// An example is in the documentation of `rpc_runtime::rpc_service`.
///
/// # Methods
///
/// A method without a body is remote. It is `async`, takes `&self` and up to sixteen owned
/// arguments of serde types, and returns a `Result<T, E>` with `E: From<RpcError>`: either
/// `rpc_runtime::Result<T>`, or one with the service's own error type, which the caller gets back
/// as the provider returned it. A method with a body is a local helper: it runs where it is
/// called, on a stub as on a provider, and may have any signature.
///
/// The trait is not `dyn` compatible, since its methods return futures of their own types: code that
/// takes any implementation is generic, over `impl HelloService`.
///
/// Many values travel as a `rpc_runtime::Streaming<T>`: as an argument, as the result, or both.
///
/// The types of a generic trait must be serde types wherever they travel, so the bounds stand on
/// the trait: `trait Store<V: Serialize + DeserializeOwned + Send + 'static>`.
///
/// # Options of the service
///
/// | key | default | meaning |
/// | --- | --- | --- |
/// | `name = "acme.Hello"` | name of the trait | name in the registry and on the wire |
/// | `version = "1.2.0"` | `"1.0.0"` | version of the contract, three numbers |
/// | `group = "blue"` | `""` | separates deployments of one service |
/// | `crate = path` | `::rpc_runtime` | where the runtime is, if renamed or re-exported |
///
/// # Options of a method
///
/// `#[rpc(…)]` above a method takes:
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "…"` | name on the wire, so that the method can be renamed |
/// | `idempotent` | running it twice does no harm, so it may be retried |
/// | `oneway` | the caller does not wait for an answer; the result is `Result<()>` |
/// | `timeout = "200ms"` | default timeout of the method; `ms`, `s` or `m`, at most 24 hours |
/// | `inline` | it does little between awaits: it begins where its request is read (the default) |
/// | `spawn` | it computes for more than a few hundred microseconds: a task of its own |
/// | `blocking` | it blocks its thread: it runs on a blocking thread of the server |
///
/// `#[rpc(default)]` before an argument: a caller with an older contract may leave it out, and the
/// provider gets `Default::default()`. An `Option` needs no such mark.
///
/// # What it writes
///
/// Shortened, with the paths left out; `tests/expansion/hello_service.rs` has it in full.
///
/// | input | expansion |
/// | --- | --- |
/// | `trait HelloService {` | `trait HelloService: Send + Sync + 'static {` |
/// | `async fn hello(&self, name: String) -> R;` | `fn hello(&self, name: String) -> impl Future<Output = R> + Send;` |
/// | | `struct HelloServiceClient` with `new`, `connect`, `discover`, `with_timeout`, `with_encoding`, `with_wait_for_ready`, `with_metadata` |
/// | | `impl HelloService for HelloServiceClient { fn hello(…) { call::<__method_hello>(&self.__client, (name,)) } }` |
/// | | `struct HelloServiceServer<S>` with `new`, `from_arc` |
/// | | `impl Service for HelloServiceServer<S> { fn dispatch(…) { match request.method_id() { … } } }` |
/// | | `const HELLO_SERVICE_DESCRIPTOR: ServiceDescriptor` |
/// | | `struct __method_hello; impl Method for __method_hello { type Arguments = (String,); type Outcome = R; … }` |
///
/// The futures are `Send`, so a call can be spawned; implementations write `async fn` all the same.
/// Attributes such as docs and `deprecated` stay on the trait, and `cfg` on a method holds for all
/// that is made of it.
#[proc_macro_attribute]
pub fn rpc_service(args: TokenStream, input: TokenStream) -> TokenStream {
    expand::rpc_service(args.into(), input.into()).into()
}
