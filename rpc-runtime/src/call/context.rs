//! [`Context`]: what a method sees of the call that runs it.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use super::extensions::Extensions;
use crate::certificate::PeerCertificate;
use crate::metadata::Metadata;

/// What is known about the call that runs now.
///
/// A provider reads it with [`Context::current`]. Calls that a handler makes inherit its deadline
/// and its metadata without being told. Owned and cheap to clone (reference counts).
///
/// The context follows the handler's own future. Work that a handler hands to a task of its own
/// takes it along with [`scope`](Self::scope).
#[derive(Clone, Debug, Default)]
pub struct Context {
    pub(crate) deadline: Option<Instant>,
    pub(crate) metadata: Option<Arc<Metadata>>,
    pub(crate) peer: Option<Arc<str>>,
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    pub(crate) extensions: Option<Arc<Extensions>>,
    /// Of the reply to this call. Clones have none.
    reply_metadata: ReplyMetadata,
}

#[derive(Debug, Default)]
struct ReplyMetadata(Option<Box<Metadata>>);

impl Clone for ReplyMetadata {
    fn clone(&self) -> Self {
        Self(None)
    }
}

thread_local! {
    static CURRENT: RefCell<Current> =
        const { RefCell::new(Current { context: Context::EMPTY, is_inside: false }) };
}

/// What is current on a thread.
struct Current {
    /// An empty one outside of calls.
    context: Context,
    /// It is that of a call.
    is_inside: bool,
}

impl Context {
    const EMPTY: Self = Self {
        deadline: None,
        metadata: None,
        peer: None,
        certificate: None,
        extensions: None,
        reply_metadata: ReplyMetadata(None),
    };

    /// The context of the call that runs now; outside of one, an empty one.
    pub fn current() -> Self {
        CURRENT.with_borrow(|current| current.context.clone())
    }

    /// The context of a call that a server has received.
    #[inline]
    pub(crate) fn received(
        deadline: Option<Instant>,
        metadata: Option<Arc<Metadata>>,
        peer: Arc<str>,
        certificate: Option<Arc<PeerCertificate>>,
    ) -> Self {
        Self { deadline, metadata, peer: Some(peer), certificate, ..Self::default() }
    }

    /// Looks at the current context without cloning it.
    pub(crate) fn with_current<R>(read: impl FnOnce(Option<&Context>) -> R) -> R {
        CURRENT.with_borrow(|current| read(current.is_inside.then_some(&current.context)))
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the caller still waits; zero once the deadline has passed, `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        let now = tokio::time::Instant::now().into_std();
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// The text that the caller sent under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }

    /// All that the caller sent along.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata
            .iter()
            .flat_map(|all| all.iter())
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Sets the text under `key` of the metadata of the reply to the call that runs now. It is sent
    /// beside the value or the error of the contract, and with the first response if the result is a
    /// stream. All of it together may have 16 KiB; with more, the call fails as
    /// [too large](crate::RpcError::is_too_large). The caller's interceptors read it; callers of versions
    /// without reply metadata do not get it.
    ///
    /// It is for the method itself: outside of a call, for a oneway, and in another task, which has a
    /// copy of the context, it has no effect.
    ///
    /// ```
    /// # use rpc_runtime::{Context, Result};
    /// # struct Hello;
    /// # impl Hello {
    /// async fn hello(&self, name: String) -> Result<String> {
    ///     Context::set_reply_metadata("served-by", "node-7");
    ///     Ok(format!("Hello, {name}"))
    /// }
    /// # }
    /// ```
    pub fn set_reply_metadata(key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        CURRENT.with_borrow_mut(|current| {
            if current.is_inside {
                current.context.reply_metadata.0.get_or_insert_default().insert(key, value);
            }
        });
    }

    /// Takes the metadata that was set for the reply.
    #[inline]
    pub(crate) fn take_reply_metadata(&mut self) -> Option<Box<Metadata>> {
        self.reply_metadata.0.take()
    }

    /// The URI of the caller's end of the connection.
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// The certificate with which the caller has proved who it is: on `tls:` connections of a server
    /// that [requires one](PeerCertificate).
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_deref()
    }

    /// The value of this type that an [interceptor](crate::Interceptor) of the server has attached
    /// with [`Call::extensions_mut`](crate::Call::extensions_mut). It does not travel.
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.extensions.as_ref()?.get_shared()
    }

    /// The same context with this value attached, in place of another one of its type. Together with
    /// [`scope`](Self::scope) this lets a test call a method as if an interceptor had attached it.
    #[must_use]
    pub fn with_extension<T: Any + Send + Sync>(mut self, value: T) -> Self {
        Arc::make_mut(self.extensions.get_or_insert_default()).insert(value);
        self
    }

    /// The same context with this text under `key`. Together with [`scope`](Self::scope) this lets
    /// a test call a handler as a provider would.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Arc::make_mut(self.metadata.get_or_insert_default()).insert(key.into(), value.into());
        self
    }

    /// The same context with this deadline, or its own if that is earlier.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |own| own.min(deadline)));
        self
    }

    /// Runs `future` with this as its current context, wherever it is spawned.
    pub fn scope<F: Future>(self, future: F) -> Scope<F> {
        Scope { context: self, future }
    }

    /// Makes this the current context of the thread while `run` runs.
    #[inline]
    pub(crate) fn enter<R>(&mut self, run: impl FnOnce() -> R) -> R {
        let was_inside = self.exchange(true);
        let _restore = Restore { outer: self, was_inside };
        run()
    }

    /// Takes the place of the current context, and that one the place of this.
    #[inline]
    fn exchange(&mut self, is_inside: bool) -> bool {
        CURRENT.with_borrow_mut(|current| {
            std::mem::swap(&mut current.context, self);
            std::mem::replace(&mut current.is_inside, is_inside)
        })
    }
}

/// Puts both contexts back where they were, also when the inner code panics.
struct Restore<'c> {
    /// In the place of the one that is current.
    outer: &'c mut Context,
    was_inside: bool,
}

impl Drop for Restore<'_> {
    #[inline]
    fn drop(&mut self) {
        self.outer.exchange(self.was_inside);
    }
}

pin_project! {
    /// A future that runs with a [`Context`]; see [`Context::scope`].
    pub struct Scope<F> {
        context: Context,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.context.enter(|| this.future.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_context_is_back_after_a_panic() {
        let mut outer = Context { peer: Some("outer".into()), ..Context::default() };
        outer.enter(|| {
            let mut inner = Context { peer: Some("inner".into()), ..Context::default() };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                inner.enter(|| panic!("in the handler"));
            }));
            assert!(result.is_err());
            assert_eq!(Context::current().peer(), Some("outer"));
        });
        assert_eq!(Context::current().peer(), None);
        assert_eq!(outer.peer(), Some("outer"), "it is whole again");
    }

    #[test]
    fn what_is_set_for_a_reply_outside_of_a_call_is_not_that_of_the_next_call() {
        Context::set_reply_metadata("from", "outside");
        let mut own = Context::default();
        own.enter(|| ());
        assert!(own.take_reply_metadata().is_none());
        own.enter(|| Context::set_reply_metadata("from", "inside"));
        Context::set_reply_metadata("from", "outside");
        Context::default().enter(|| ());
        let metadata = own.take_reply_metadata().unwrap();
        assert_eq!(metadata.get("from").map(String::as_str), Some("inside"));
    }
}
