//! rpc-runtime
#[doc(hidden)]
pub mod __private;
mod buffer;
mod channel;
mod client;
mod cluster;
mod context;
mod descriptor;
mod error;
pub mod handlers;
mod in_flight;
pub mod pipeline;
pub mod protocol;
mod server;
mod service;
mod status;
mod transport;
mod uri;
pub use client::{Client, ClientBuilder};
pub use context::{Context, Metadata};
pub use descriptor::{
    ArgumentDescriptor, Dispatch, MethodDescriptor, ServiceDescriptor, ServiceKey,
};
pub use error::{Result, RpcError};
pub use protocol::payload::Encoding;
pub use rpc_macros::rpc_service;
pub use server::{Server, ServerBuilder};
pub use service::{Dispatched, Request, Service};
pub use status::Status;
