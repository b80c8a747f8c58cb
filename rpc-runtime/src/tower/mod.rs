//! Adapters for [tower], both ways, with the feature `tower`.
//!
//! - [`Layered`]: a stack of tower's layers as an [`Interceptor`](crate::Interceptor), for the calls
//!   of a client, a server or one of its services.
//! - [`Client`](crate::Client) as a tower `Service` of [`MethodCall`]s.
//!
//! A stub needs no adapter to become a service: `tower::service_fn(|name| hello.hello(name))`.
//!
//! [tower]: https://docs.rs/tower

mod layered;
mod service;

pub use layered::{LayerCall, Layered, Rest};
pub use service::MethodCall;
