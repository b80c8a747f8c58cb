//! An RPC framework in which **the trait is the contract**.
//!
//! Annotate a trait with [`rpc_service`], implement it, and provide the implementation with a
//! [`Server`]. The macro generates a client stub that implements the same trait, and a dispatcher.
//! Calls use long-lived multiplexed connections, each with a channel [`pipeline`] like Netty's.
//! Clients find providers through `rpc-registry`.
//!
//! ```
//! use rpc_runtime::{Server, rpc_service};
//!
//! #[rpc_service]
//! pub trait HelloService {
//!     /// Greets `name`.
//!     async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
//! }
//!
//! struct Hello;
//! impl HelloService for Hello {
//!     async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
//!         Ok(format!("Hello, {name}"))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> rpc_runtime::Result<()> {
//! let server = Server::builder()
//!     .provide(HelloServiceServer::new(Hello))
//!     .bind("tcp://127.0.0.1:0")
//!     .await?;
//!
//! let hello = HelloServiceClient::connect(server.local_uri()).await?;
//! assert_eq!(hello.hello("world".into()).await?, "Hello, world");
//!
//! server.shutdown().await
//! # }
//! ```
//!
//! # Overview
//!
//! | to | see |
//! | --- | --- |
//! | write a contract | [`rpc_service`] |
//! | provide it | [`Server`], [`ServerBuilder`] |
//! | call it | the generated `…Client`, [`Client`], [`ClientBuilder`] |
//! | choose the encoding of values | [`Encoding`] |
//! | send large byte strings without copying | [`Blob`] |
//! | observe the connections of a client | [`Client::connections`], [`Client::state_changes`] |
//! | wait for providers, close a client | [`Client::with_wait_for_ready`], [`Client::close`] |
//! | get caller, deadline and metadata in a method | [`Context`] |
//! | run code before and after each call | [`Interceptor`], [`ClientBuilder::interceptor`], [`ServerBuilder::interceptor`] |
//! | pass values from an interceptor to a method | [`Call::extensions_mut`], [`Context::extension`] |
//! | handle errors and decide on retries | [`RpcError`] |
//! | detect dead connections | [`Heartbeat`] |
//! | decode untrusted bytes | [`protocol::decode`] |
//! | turn metrics on or off | [`ClientBuilder::metrics`], [`ServerBuilder::metrics`] |
//! | inspect or extend a connection | [`pipeline`], [`handlers`], [`protocol`] |
//!
//! # Guarantees for every call
//!
//! Every call ends with its value, with the contract's own error, or with an [`RpcError`] that says
//! what happened, where, and whether a retry is safe. Every call has a deadline; the default is 10
//! s; the call, the contract or the client can set another. Dropping the future of a call cancels
//! it, also at the provider. The framework never sends a call twice; only an [`Interceptor`] can,
//! with [`Next::again`].
//!
//! # Features
//!
//! | feature | what |
//! | --- | --- |
//! | `tls` | the transport `tls://`: TLS 1.3 by rustls |
//! | `tower` | adapters for tower's layers and services |
//! | `opentelemetry` | traces that continue from a caller to its provider |
//!
//! None is on by default.

#[cfg(feature = "__bench")]
#[doc(hidden)]
pub mod __bench;
#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub mod __fuzz;
#[doc(hidden)]
pub mod __private;
mod budget;
mod buffer;
mod call;
mod certificate;
mod client;
mod cluster;
mod connection;
mod descriptor;
mod error;
pub mod handlers;
mod metadata;
mod observe;
pub mod pipeline;
pub mod protocol;
mod random;
mod runtime;
mod server;
mod service;
mod shape;
mod status;
mod streaming;
#[cfg(feature = "tower")]
pub mod tower;
mod transport;
mod uri;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub use budget::MemoryLimits;
pub use call::{
    Call, Context, Extensions, Interceptor, Interceptors, Next, Reply, Run, Scope, StreamEnd,
};
pub use certificate::PeerCertificate;
pub use client::{
    BackOff, Client, ClientBuilder, ConnectionInfo, ConnectionState, Encoding, StateChanges,
};
pub use connection::ChannelHandle;
pub use descriptor::{
    ArgumentDescriptor, Dispatch, MethodDescriptor, ServiceDescriptor, ServiceKey,
};
pub use error::{Result, RpcError};
pub use handlers::{Heartbeat, HeartbeatMode};
pub use protocol::Blob;
/// Makes a trait the contract of a remote service:
///
/// ```no_run
/// use rpc_runtime::{Server, rpc_service};
///
/// #[rpc_service]
/// pub trait HelloService {
///     /// Greets `name`.
///     async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
/// }
///
/// struct Hello;
///
/// impl HelloService for Hello {
///     async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
///         Ok(format!("Hello, {name}"))
///     }
/// }
///
/// # async fn programs() -> rpc_runtime::Result<()> {
/// // in the provider
/// let provider = Server::builder().provide(HelloServiceServer::new(Hello));
/// let server = provider.bind("tcp://127.0.0.1:9000").await?;
/// // in the consumer
/// let hello = HelloServiceClient::connect("tcp://127.0.0.1:9000").await?;
/// println!("{}", hello.hello("world".into()).await?);
/// # server.shutdown().await
/// # }
/// ```
pub use rpc_macros::rpc_service;
pub use server::{Server, ServerBuilder};
pub use service::{BoxCall, Dispatched, Request, Service};
pub use status::Status;
pub use streaming::{StreamSender, Streaming};
#[cfg(feature = "tls")]
pub use transport::{ClientTls, ServerTls};
