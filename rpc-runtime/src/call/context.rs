//! [`Context`]: the call that a method serves.

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
use crate::metadata::{self, Metadata};

/// Deadline, metadata, peer and extensions of the call that a method serves.
///
/// A method reads it with [`Context::current`]. Calls that the method makes inherit the deadline
/// and the metadata. Cheap to clone (reference counts).
///
/// The context belongs to the method's future. Pass it to a spawned task with
/// [`scope`](Self::scope).
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

    /// The context of the current call; an empty one outside of a call.
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

    /// Reads the current context without cloning it.
    pub(crate) fn with_current<R>(read: impl FnOnce(Option<&Context>) -> R) -> R {
        CURRENT.with_borrow(|current| read(current.is_inside.then_some(&current.context)))
    }

    /// Deadline of the call; `None` if the caller has set none.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Time until the deadline; zero once it has passed, `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        let now = tokio::time::Instant::now().into_std();
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// The metadata value that the caller sent for `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }

    /// All metadata of the call, as keys and values.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata
            .iter()
            .flat_map(|all| all.iter())
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Sets a metadata value of the reply to the current call. The caller's interceptors read it
    /// with [`Reply::metadata`](crate::Reply::metadata).
    ///
    /// Reply metadata is sent with the value or the error of the contract; for a stream, with the
    /// response that precedes the items. Limit of all reply metadata: 16 KiB; with more, the call
    /// fails as [too large](crate::RpcError::is_too_large). Callers of versions without reply
    /// metadata do not get it.
    ///
    /// Call it in the method itself. It has no effect outside of a call, in a oneway, and in a
    /// spawned task, which has a copy of the context.
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

    /// The memory of the caller's metadata in bytes, estimated.
    pub(crate) fn metadata_memory(&self) -> usize {
        self.metadata.as_deref().map_or(0, metadata::memory)
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

    /// The verified certificate of the caller, on `tls:` connections of a server that
    /// [requires one](PeerCertificate).
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_deref()
    }

    /// The value of this type that an [interceptor](crate::Interceptor) of the server has attached
    /// with [`Call::extensions_mut`](crate::Call::extensions_mut). Extensions are not sent to
    /// peers.
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.extensions.as_ref()?.get_shared()
    }

    /// Attaches a value; it replaces an earlier one of the same type. With [`scope`](Self::scope),
    /// a test can call a method as if an interceptor had attached the value.
    #[must_use]
    pub fn with_extension<T: Any + Send + Sync>(mut self, value: T) -> Self {
        Arc::make_mut(self.extensions.get_or_insert_default()).insert(value);
        self
    }

    /// Sets a metadata value. With [`scope`](Self::scope), a test can call a method as a server
    /// would.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Arc::make_mut(self.metadata.get_or_insert_default()).insert(key.into(), value.into());
        self
    }

    /// Sets the deadline. A later deadline than the current one has no effect.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |own| own.min(deadline)));
        self
    }

    /// Runs `future` with this context as the current one, in any task.
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
