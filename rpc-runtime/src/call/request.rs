//! [`Call`]: a call as interceptors see it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Context;
use super::extensions::Extensions;
use crate::certificate::PeerCertificate;
use crate::descriptor::MethodDescriptor;
use crate::metadata::Metadata;

/// A call as [interceptors](crate::Interceptor) read and change it: the call to be sent at a
/// client, the received call at a server.
///
/// It does not have the arguments: a client encodes them after a connection is picked, and a server
/// decodes them when the method is reached.
pub struct Call<'c> {
    method: &'static MethodDescriptor,
    metadata: Entries<'c>,
    deadline: Option<Instant>,
    extensions: Option<Arc<Extensions>>,
    peer: Option<&'c str>,
    certificate: Option<&'c PeerCertificate>,
}

/// The metadata of a call, copied when it is changed.
pub(crate) enum Entries<'c> {
    None,
    /// Of a client, for as long as the call.
    Borrowed(&'c Arc<Metadata>),
    Shared(Arc<Metadata>),
}

impl Entries<'_> {
    #[inline]
    pub(crate) fn get(&self) -> Option<&Arc<Metadata>> {
        match self {
            Self::None => None,
            Self::Borrowed(metadata) => Some(metadata),
            Self::Shared(metadata) => Some(metadata),
        }
    }

    /// Changes them, on a copy if they are shared.
    fn change<R>(&mut self, change: impl FnOnce(&mut Metadata) -> R) -> R {
        let mut metadata = match std::mem::replace(self, Self::None) {
            Self::None => Arc::default(),
            Self::Borrowed(metadata) => Arc::clone(metadata),
            Self::Shared(metadata) => metadata,
        };
        let result = change(Arc::make_mut(&mut metadata));
        if !metadata.is_empty() {
            *self = Self::Shared(metadata);
        }
        result
    }
}

impl<'c> Call<'c> {
    /// A call that a client is about to send.
    #[inline]
    pub(crate) fn outgoing(
        method: &'static MethodDescriptor,
        deadline: Instant,
        metadata: Entries<'c>,
    ) -> Self {
        let deadline = Some(deadline);
        Self { method, metadata, deadline, extensions: None, peer: None, certificate: None }
    }

    /// A call that a server has received, from its context.
    pub(crate) fn incoming(method: &'static MethodDescriptor, context: &'c Context) -> Self {
        Self {
            method,
            metadata: context.metadata.as_ref().map_or(Entries::None, Entries::Borrowed),
            deadline: context.deadline,
            extensions: context.extensions.clone(),
            peer: context.peer(),
            certificate: context.peer_certificate(),
        }
    }

    /// Applies the changes of this call to `context`, from which it was made.
    pub(crate) fn update(&self, context: &mut Context) {
        context.deadline = self.deadline;
        context.extensions.clone_from(&self.extensions);
        context.metadata = self.metadata.get().cloned();
    }

    /// The parts of the call that a client sends, without borrows.
    pub(crate) fn detached(&self) -> Call<'static> {
        Call {
            method: self.method,
            metadata: self.metadata.get().cloned().map_or(Entries::None, Entries::Shared),
            deadline: self.deadline,
            extensions: self.extensions.clone(),
            peer: None,
            certificate: None,
        }
    }

    /// A call for unit tests of interceptors, without metadata, deadline and peer. See
    /// [`Next::answering`](crate::Next::answering).
    pub fn for_test(method: &'static MethodDescriptor) -> Self {
        Self {
            method,
            metadata: Entries::None,
            deadline: None,
            extensions: None,
            peer: None,
            certificate: None,
        }
    }

    /// Sets the peer, for unit tests.
    #[must_use]
    pub fn with_peer(self, uri: &'c str) -> Self {
        Self { peer: Some(uri), ..self }
    }

    /// The called method. It displays as `Service/method`.
    pub fn method(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// The metadata value for `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get()?.get(key).map(String::as_str)
    }

    /// All metadata of the call, as keys and values.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.metadata.get().into_iter().flat_map(|all| all.iter());
        all.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    #[inline]
    pub(crate) fn entries(&self) -> Option<&Arc<Metadata>> {
        self.metadata.get()
    }

    #[cfg(feature = "tower")]
    pub(crate) fn replace_metadata(&mut self, metadata: Metadata) {
        self.metadata.change(|all| *all = metadata);
    }

    /// Sets a metadata value. A client sends it; at a server the method reads it, and calls that
    /// the method makes inherit it. Limit of all metadata of a call: 16 KiB.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.change(|metadata| metadata.insert(key.into(), value.into()));
    }

    /// Removes the metadata value for `key` and returns it.
    pub fn remove_metadata(&mut self, key: &str) -> Option<String> {
        self.metadata(key)?;
        self.metadata.change(|metadata| metadata.remove(key))
    }

    /// Deadline of the call. Always `Some` at a client; at a server, `None` if the caller sent
    /// none.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Time until the deadline; zero once it has passed, `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        let now = tokio::time::Instant::now().into_std();
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Sets the deadline. It can only be shortened: a later one than there is has no effect.
    ///
    /// It bounds what is behind the last interceptor: sending and its reply at a client, the method
    /// at a server. Interceptors themselves are ended at the deadline that the call began with.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(self.deadline.map_or(deadline, |own| own.min(deadline)));
    }

    /// The attached value of this type.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.as_ref()?.get()
    }

    /// The values attached to the call. At a server the method reads them with
    /// [`Context::extension`](crate::Context::extension). At a client, interceptors behind this one
    /// see them.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        Arc::make_mut(self.extensions.get_or_insert_default())
    }

    /// URI of the caller's end of the connection, at a server. `None` at a client, where the
    /// [reply](crate::Reply::peer) has the provider's URI.
    pub fn peer(&self) -> Option<&str> {
        self.peer
    }

    /// The verified certificate of the caller, at a server that [requires one](PeerCertificate).
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.certificate
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values may be secrets.
        let keys: Vec<&str> = self.all_metadata().map(|(key, _)| key).collect();
        f.debug_struct("Call")
            .field("method", &format_args!("{}", self.method))
            .field("metadata", &keys)
            .field("deadline", &self.deadline)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::ServiceKey;

    const METHOD: &MethodDescriptor =
        &MethodDescriptor::new(ServiceKey::new("Echo", "1.0.0", ""), "echo", &[], "");

    #[test]
    fn metadata_is_copied_when_it_is_changed() {
        let outer = Context::default().with_metadata("tenant", "acme").with_metadata("x", "y");
        let mut inner = outer.clone();
        let mut call = Call::incoming(METHOD, &outer);
        call.update(&mut inner);
        let same = |a: &Context, b: &Context| match (&a.metadata, &b.metadata) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        assert!(same(&inner, &outer), "nothing was changed, nothing copied");
        call.set_metadata("user", "ada");
        assert_eq!(call.remove_metadata("x").as_deref(), Some("y"));
        assert_eq!(call.remove_metadata("x"), None);
        call.update(&mut inner);
        assert_eq!((outer.metadata("user"), outer.metadata("x")), (None, Some("y")));
        let all: Vec<_> = inner.all_metadata().collect();
        assert_eq!(all, [("tenant", "acme"), ("user", "ada")]);
        call.set_metadata("user", "grace");
        assert_eq!(inner.metadata("user"), Some("ada"), "it has its own");
        for key in ["tenant", "user"] {
            call.remove_metadata(key);
        }
        call.update(&mut inner);
        assert_eq!(inner.all_metadata().count(), 0);
    }

    #[test]
    #[cfg(feature = "tower")]
    fn metadata_that_is_replaced_by_none_is_not_sent_as_an_empty_section() {
        let mut call = Call::for_test(METHOD);
        call.set_metadata("tenant", "acme");
        call.replace_metadata(Metadata::default());
        assert!(call.entries().is_none());
    }

    #[test]
    fn a_deadline_can_only_be_shortened() {
        let now = Instant::now();
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        let mut call = Call::for_test(METHOD);
        for (set, expected) in [(late, late), (soon, soon), (late, soon)] {
            call.set_deadline(set);
            assert_eq!(call.deadline(), Some(expected));
        }
    }

    #[test]
    fn the_debug_form_shows_no_values_of_metadata() {
        let mut call = Call::for_test(METHOD).with_peer("tcp://127.0.0.1:1");
        call.set_metadata("authorization", "Bearer s3cret");
        let text = format!("{call:?}");
        assert!(text.contains("authorization") && !text.contains("s3cret"), "{text}");
    }
}
