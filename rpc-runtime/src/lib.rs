//! A fast RPC runtime in which **the trait is the contract**.
//!
//! Annotate a trait with [`rpc_service`], implement it, provide it with a [`Server`]; the macro
//! writes a client stub that implements the same trait, and a dispatcher. Calls travel over
//! long-lived multiplexed connections, each with a channel [`pipeline`] in Netty's manner.
//! Providers are found through `rpc-registry`.
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
//! # Where things are
//!
//! | to | see |
//! | --- | --- |
//! | write a contract | [`rpc_service`] |
//! | provide it | [`Server`], [`ServerBuilder`] |
//! | call it | the generated `…Client`, [`Client`], [`ClientBuilder`] |
//! | choose how values are written | [`Encoding`] |
//! | send large bytes without a copy | [`Blob`] |
//! | see where a client's connections stand | [`Client::connections`], [`Client::state_changes`] |
//! | wait for providers, or not, and end a client | [`Client::with_wait_for_ready`], [`Client::close`] |
//! | know who calls and how long is left | [`Context`] |
//! | know what went wrong and whether to retry | [`RpcError`] |
//! | know at once that a connection is dead | [`Heartbeat`] |
//! | decode untrusted bytes | [`protocol::decode`] |
//! | see what it does | [`ClientBuilder::metrics`], [`ServerBuilder::metrics`] |
//! | look into a connection, or extend it | [`pipeline`], [`handlers`], [`protocol`] |
//!
//! # What holds for every call
//!
//! It ends: with the value, with the contract's own error, or with an [`RpcError`] that says what
//! happened, where, and whether a retry is safe. There is always a deadline (10 s unless the call,
//! the contract or the client says otherwise). Dropping a call's future cancels it, at the provider
//! too. Nothing is sent twice on its own.

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
#[allow(dead_code, unused_imports, reason = "client and server take it up one after the other")]
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
pub use rpc_macros::rpc_service;
pub use server::{Server, ServerBuilder};
pub use service::{BoxCall, Dispatched, Request, Service};
pub use status::Status;
pub use streaming::{StreamSender, Streaming};
#[cfg(feature = "tls")]
pub use transport::{ClientTls, ServerTls};
