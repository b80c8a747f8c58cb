//! Calls and replies as values, interceptors, and the context of a method.
//!
//! | type | what |
//! | --- | --- |
//! | [`Call`] | a call in progress: method, metadata, deadline, peer, extensions |
//! | [`Reply`] | its result: value or error of the contract, metadata, peer, stream |
//! | [`Interceptor`], [`Next`] | code before and after a call, and the rest of the chain |
//! | [`Interceptors`] | a list of interceptors, outermost first |
//! | `End` | the end of the chain: a client sends the call, a server runs the method |
//! | [`Context`] | the call that a method serves |
//!
//! Both ends use these types; this module depends on neither.

mod chain;
mod context;
mod extensions;
mod interceptor;
mod items;
mod reply;
mod request;

pub use chain::Interceptors;
pub use context::{Context, Scope};
pub use extensions::Extensions;
pub(crate) use interceptor::End;
pub use interceptor::{Interceptor, Next, Run};
pub use items::StreamEnd;
pub(crate) use items::{Items, ReplyStream, Source};
pub use reply::Reply;
pub(crate) use reply::{Origin, ReplyBody};
pub use request::Call;
pub(crate) use request::Entries;
