//! A call as a value, and what stands between its two ends.
//!
//! | type | what |
//! | --- | --- |
//! | [`Call`] | a call on its way: method, metadata, deadline, peer, extensions |
//! | [`Reply`] | what came back: value or error of the contract, metadata, peer, stream |
//! | [`Interceptor`], [`Next`] | what runs before and after a call, and the rest of the way |
//! | [`Interceptors`] | a list of them, outermost first |
//! | `End` | what is behind the last interceptor: sending at a client, the method at a server |
//! | [`Context`] | what a method sees of the call that runs it |
//!
//! Both ends use these types. Neither is known here.

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
