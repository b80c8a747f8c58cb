//! [`RpcError`]: the error of a call.

mod cause;
mod text;

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use self::cause::Cause;
pub(crate) use self::cause::{exposed, withheld};
use crate::metadata::Metadata;
use crate::status::Status;

/// The result of a remote method without its own error type.
pub type Result<T, E = RpcError> = std::result::Result<T, E>;

/// The error of a call: its reason, where it occurred, and whether a retry is safe.
///
/// Its texts are safe to log. Control characters, line separators and characters that change the
/// direction of text are escaped (`\n`), and a text is cut after 4,096 characters.
///
/// The type is opaque, so that new kinds of errors do not break users. Methods such as
/// [`is_timeout`](Self::is_timeout), [`is_unavailable`](Self::is_unavailable) and
/// [`is_safe_to_retry`](Self::is_safe_to_retry) classify an error. Its text names the method, the
/// peer and the reason; [`source`](Error::source) returns the cause.
///
/// It is `Clone`, `PartialEq`, `Serialize` and `Deserialize`, so contracts can use it in their own
/// error enums:
///
/// ```
/// use rpc_runtime::RpcError;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize)]
/// enum TransferError {
///     Insufficient(u32, i64),
///     Rpc(RpcError),
/// }
/// impl From<RpcError> for TransferError {
///     fn from(error: RpcError) -> Self {
///         Self::Rpc(error)
///     }
/// }
/// ```
///
/// Causes and peer reveal details of the process, so they are not sent to the other end of a
/// connection, also not within a value or an error of the contract. See
/// [`ServerBuilder::expose_internal_errors`](crate::ServerBuilder::expose_internal_errors).
///
/// [`is_safe_to_retry`](Self::is_safe_to_retry) and [metadata](Self::metadata) apply to one hop, so
/// they are neither serialized nor compared. An `RpcError` that a provider passes on from a nested
/// call says nothing about whether the provider's own method ran.
#[derive(Clone, Serialize, Deserialize)]
pub struct RpcError(Box<Inner>);

#[derive(Clone, Serialize, Deserialize)]
struct Inner {
    #[serde(with = "status_as_number")]
    status: Status,
    #[serde(deserialize_with = "text::required")]
    message: String,
    #[serde(default, deserialize_with = "text::optional")]
    method: Option<String>,
    #[serde(default, serialize_with = "cause::peer", deserialize_with = "text::optional")]
    peer: Option<String>,
    #[serde(default, serialize_with = "cause::source", deserialize_with = "cause::at_most_16")]
    source: Option<Cause>,
    /// The provider certainly did not run the method.
    #[serde(skip)]
    unexecuted: bool,
    #[serde(skip)]
    idempotent: bool,
    /// For the other end of this hop.
    #[serde(skip)]
    metadata: Option<Box<Metadata>>,
    /// Sent by the provider.
    #[serde(skip)]
    received: Option<Box<Metadata>>,
}

mod status_as_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::status::Status;

    pub(super) fn serialize<S: Serializer>(status: &Status, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u16(status.to_wire())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Status, D::Error> {
        u16::deserialize(d).map(Status::from_wire)
    }
}

impl RpcError {
    /// An error with this status. Providers usually use [`internal`](Self::internal).
    ///
    /// `Status::Ok` and `Status::Application` are not failures; they are replaced by
    /// `Status::Internal`.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        let status = match status {
            Status::Ok | Status::Application => Status::Internal,
            status => status,
        };
        Self(Box::new(Inner {
            status,
            message: text::bounded(message),
            method: None,
            peer: None,
            source: None,
            unexecuted: false,
            idempotent: false,
            metadata: None,
            received: None,
        }))
    }

    /// The method failed outside its contract.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Status::Internal, message)
    }

    /// There is no usable connection or provider.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Status::Unavailable, message)
    }

    /// Something that the user gave is invalid. The message should name it and a valid form.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Status::Invalid, message).unexecuted()
    }

    /// The caller must authenticate, or must use other credentials. The message should say how.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Status::Unauthenticated, message)
    }

    /// The caller is authenticated and does not have the permission.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(Status::PermissionDenied, message)
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(Status::Timeout, message)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(Status::Protocol, message)
    }

    /// Sets `error` and its causes as the [`source`](Error::source). Only the texts are kept.
    pub fn with_source(mut self, error: &(dyn Error + 'static)) -> Self {
        self.0.source = Some(Cause::from_error(error));
        self
    }

    /// Adds metadata for the caller's interceptors. If an interceptor refuses a call with this
    /// error, the metadata is sent as reply metadata, at most 16 KiB. It has no effect on an error
    /// that a method returns, which is a value of its contract; a method sets metadata in its
    /// context.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    /// Sets the metadata that the provider sent with the error. It is not passed on.
    pub(crate) fn with_received(mut self, metadata: Option<Box<Metadata>>) -> Self {
        self.0.received = metadata;
        self
    }

    /// What travels to the other end.
    pub(crate) fn own_metadata(&self) -> Option<&Metadata> {
        self.0.metadata.as_deref()
    }

    /// Sets the method, unless one is already set by an inner layer.
    pub(crate) fn with_method(mut self, method: impl fmt::Display) -> Self {
        self.0.method.get_or_insert_with(|| method.to_string());
        self
    }

    /// Sets the peer, unless one is already set.
    pub(crate) fn with_peer(mut self, peer: impl fmt::Display) -> Self {
        self.0.peer.get_or_insert_with(|| peer.to_string());
        self
    }

    /// Marks that the provider certainly did not run the method.
    pub(crate) fn unexecuted(mut self) -> Self {
        self.0.unexecuted = true;
        self
    }

    /// Marks that the provider may have run the method.
    pub(crate) fn maybe_executed(mut self) -> Self {
        self.0.unexecuted = false;
        self
    }

    pub(crate) fn is_unexecuted(&self) -> bool {
        self.0.unexecuted
    }

    pub(crate) fn with_idempotent(mut self, idempotent: bool) -> Self {
        self.0.idempotent = idempotent;
        self
    }

    /// The status, as sent on the wire. Use it for metrics; for decisions, use the methods below.
    pub fn status(&self) -> Status {
        self.0.status
    }

    /// The message, without method and peer.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// `Service/method`, if known.
    pub fn method(&self) -> Option<&str> {
        self.0.method.as_deref()
    }

    /// The URI of the other end, if known.
    pub fn peer(&self) -> Option<&str> {
        self.0.peer.as_deref()
    }

    /// The text that came with the error under `key`: set by [`with_metadata`](Self::with_metadata),
    /// otherwise sent by the provider.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let both = [&self.0.metadata, &self.0.received];
        both.into_iter().flatten().find_map(|metadata| metadata.get(key)).map(String::as_str)
    }

    /// Whether the deadline passed before the response arrived.
    pub fn is_timeout(&self) -> bool {
        self.0.status == Status::Timeout
    }

    /// Whether there was no provider or no connection, or the connection ended before the response.
    pub fn is_unavailable(&self) -> bool {
        self.0.status == Status::Unavailable
    }

    /// Whether the provider has no such service or method, or not in a compatible version.
    pub fn is_not_found(&self) -> bool {
        self.0.status == Status::NotFound
    }

    /// Whether a limit on concurrent work was reached.
    pub fn is_overloaded(&self) -> bool {
        self.0.status == Status::Overloaded
    }

    /// Whether arguments or result exceeded the payload limit.
    pub fn is_too_large(&self) -> bool {
        self.0.status == Status::TooLarge
    }

    /// Whether the call was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.status == Status::Cancelled
    }

    /// Whether arguments or result could not be decoded as the types of the contract.
    pub fn is_decode(&self) -> bool {
        self.0.status == Status::Decode
    }

    /// Whether the method panicked or failed outside its contract.
    pub fn is_internal(&self) -> bool {
        self.0.status == Status::Internal
    }

    /// Whether the peer uses another protocol or another version of it, or broke its rules.
    pub fn is_protocol(&self) -> bool {
        self.0.status == Status::Protocol
    }

    /// Whether a URI or a setting that the user gave is invalid.
    pub fn is_invalid(&self) -> bool {
        self.0.status == Status::Invalid
    }

    /// Whether the provider does not accept the caller's credentials, or there were none.
    pub fn is_unauthenticated(&self) -> bool {
        self.0.status == Status::Unauthenticated
    }

    /// Whether the caller is not permitted to call this method, or not with these arguments.
    pub fn is_permission_denied(&self) -> bool {
        self.0.status == Status::PermissionDenied
    }

    /// Whether a retry is safe: the provider certainly did not run the method, or the contract
    /// marks it as `idempotent`. A safe retry may still be useless, for example if a payload is
    /// [too large](Self::is_too_large).
    pub fn is_safe_to_retry(&self) -> bool {
        self.0.unexecuted || self.0.idempotent
    }
}

impl PartialEq for RpcError {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.0, &*other.0);
        (a.status, &a.message, &a.method, &a.peer, &a.source)
            == (b.status, &b.message, &b.method, &b.peer, &b.source)
    }
}

impl Eq for RpcError {}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.method(), self.peer()) {
            (Some(method), Some(peer)) => write!(f, "{method} at {peer}: ")?,
            (Some(method), None) => write!(f, "{method}: ")?,
            (None, Some(peer)) => write!(f, "{peer}: ")?,
            (None, None) => {}
        }
        f.write_str(self.message())
    }
}

/// One readable line, since `main` prints this for an error that it returns.
impl fmt::Debug for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcError({}: {self}", self.status())?;
        // Only for errors that a retry could avoid.
        if matches!(
            self.status(),
            Status::Timeout
                | Status::Unavailable
                | Status::Overloaded
                | Status::Cancelled
                | Status::Internal
        ) {
            let safe = if self.is_safe_to_retry() { "safe" } else { "not known to be safe" };
            write!(f, "; a retry is {safe}")?;
        }
        f.write_str(")")
    }
}

/// An invalid URI or instance becomes `invalid`; all other errors of a registry become
/// `unavailable`.
impl From<rpc_registry::RegistryError> for RpcError {
    fn from(error: rpc_registry::RegistryError) -> Self {
        let invalid =
            error.is_invalid_uri() || error.is_unsupported_scheme() || error.is_invalid_instance();
        let status = if invalid { Status::Invalid } else { Status::Unavailable };
        Self::new(status, error.to_string()).with_source(&error).unexecuted()
    }
}

impl Error for RpcError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|cause| cause as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_method_peer_and_cause_and_source_leads_to_the_root() {
        let root = std::io::Error::other("no route");
        let error = RpcError::unavailable("cannot connect")
            .with_source(&root)
            .with_method("Hello/hello")
            .with_peer("tcp://127.0.0.1:1");
        assert_eq!(error.to_string(), "Hello/hello at tcp://127.0.0.1:1: cannot connect");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("no route"));
    }

    #[test]
    fn retry_knowledge_does_not_cross_a_hop() {
        let error = RpcError::unavailable("gone").unexecuted();
        assert!(error.is_safe_to_retry());
        let bytes = rmp_serde::to_vec_named(&error).unwrap();
        let passed_on: RpcError = rmp_serde::from_slice(&bytes).unwrap();
        assert!(!passed_on.is_safe_to_retry());
        assert_eq!(passed_on, error);
    }

    #[test]
    fn refusals_of_a_caller_answer_their_own_question_only() {
        let unauthenticated = RpcError::unauthenticated("a token is needed");
        assert!(unauthenticated.is_unauthenticated() && !unauthenticated.is_permission_denied());
        let denied = RpcError::permission_denied("the role `admin` is needed");
        assert!(denied.is_permission_denied() && !denied.is_unauthenticated());
        assert!(!denied.is_internal() && !denied.is_safe_to_retry());
    }

    #[test]
    fn what_a_peer_writes_is_one_line_of_bounded_length_and_at_most_16_causes() {
        #[derive(Serialize)]
        struct Told {
            status: u16,
            message: String,
            method: Option<String>,
            peer: Option<String>,
            source: Option<Link>,
        }
        #[derive(Serialize)]
        struct Link {
            message: String,
            source: Option<Box<Link>>,
        }
        let text = || format!("a\n\u{1b}[2J{}", "b".repeat(10_000));
        let mut source = Link { message: text(), source: None };
        for _ in 0..20 {
            source = Link { message: text(), source: Some(Box::new(source)) };
        }
        let told = Told {
            status: 60,
            message: text(),
            method: Some(text()),
            peer: Some(text()),
            source: Some(source),
        };
        let read: RpcError =
            rmp_serde::from_slice(&rmp_serde::to_vec_named(&told).unwrap()).unwrap();
        let mut texts = vec![
            read.message().to_owned(),
            read.method().unwrap().to_owned(),
            read.peer().unwrap().to_owned(),
        ];
        let mut next = read.source();
        while let Some(cause) = next {
            texts.push(cause.to_string());
            next = cause.source();
        }
        assert_eq!(texts.len(), 3 + 16);
        for text in texts {
            assert!(text.starts_with(r"a\n\u{1b}[2Jb") && text.ends_with("b…"), "{text}");
            assert!(text.len() < 4_200);
        }
    }

    #[test]
    fn causes_and_peer_do_not_cross_the_wire_unless_they_are_exposed() {
        let root = std::io::Error::other("/etc/secret");
        let error = RpcError::internal("no").with_source(&root).with_peer("tcp://10.0.0.1:1");
        let sent = |expose: bool| {
            let mut out = Vec::new();
            exposed(expose, || {
                crate::protocol::payload::encode(
                    &error,
                    crate::protocol::payload::Form::Compact,
                    &mut out,
                )
            })
            .unwrap();
            rmp_serde::from_slice::<RpcError>(&out).unwrap()
        };
        let told = sent(false);
        assert_eq!((told.message(), told.peer(), told.source().is_none()), ("no", None, true));
        assert_eq!(sent(true), error);
        // Elsewhere than on the wire they stay.
        let kept: RpcError = rmp_serde::from_slice(&rmp_serde::to_vec(&error).unwrap()).unwrap();
        assert_eq!(kept, error);
    }

    #[test]
    fn an_error_is_one_pointer_so_results_stay_small() {
        assert_eq!(size_of::<RpcError>(), size_of::<usize>());
    }
}
