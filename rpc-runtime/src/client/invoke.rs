//! Calls of a client: from the stub to the interceptors and the connection.

use std::sync::Arc;
use std::time::Instant;

use super::handle::{Client, deadline_after};
use super::intercepted;
use super::request::{Target, Unsent};
use super::sending::Sending;
use crate::call::{Call, Context, Entries, Reply};
use crate::connection::clock;
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::metadata::Metadata;
#[cfg(feature = "opentelemetry")]
use crate::observe;
use crate::observe::ClientCall;

impl Client {
    /// Makes the call, and waits for its reply.
    #[inline]
    pub(super) async fn invoke(
        &self,
        target: &Target,
        arguments: &mut dyn Unsent,
        observed: &mut ClientCall<'_>,
    ) -> Result<Reply, RpcError> {
        let now = clock();
        observed.begin(now);
        let mut call = self.outgoing(target.method, now);
        #[cfg(feature = "opentelemetry")]
        observe::inject_trace(observed.span(), &mut |key, value| call.set_metadata(key, value));
        let sending = Sending { client: self, target, span: observed.span() };
        if self.interceptors.is_empty() {
            sending.send(&call, now, arguments).await
        } else {
            intercepted::run(sending, &mut call, arguments).await
        }
    }

    /// The call with its deadline and metadata, both also inherited from the current context.
    #[inline]
    fn outgoing(&self, method: &'static MethodDescriptor, now: Instant) -> Call<'_> {
        let timeout = self.timeout.or(method.timeout()).unwrap_or(self.default_timeout);
        let mut deadline = deadline_after(now, timeout);
        let inherited = Context::with_current(|context| {
            let context = context?;
            if let Some(outer) = context.deadline {
                deadline = deadline.min(outer);
            }
            context.metadata.clone()
        });
        let metadata = match (inherited, &self.metadata) {
            (None, None) => Entries::None,
            (None, Some(own)) => Entries::Borrowed(own),
            (Some(inherited), None) => Entries::Shared(inherited),
            (Some(inherited), Some(own)) => Entries::Shared(Arc::new(merge(&inherited, own))),
        };
        Call::outgoing(method, deadline, metadata)
    }
}

/// Metadata of the client takes precedence over inherited metadata.
fn merge(inherited: &Metadata, own: &Metadata) -> Metadata {
    let mut merged = inherited.clone();
    merged.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    merged
}
