use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::Printable;

/// The error of a registry.
///
/// The message is complete: what happened, in which registry and file, the cause, and a remedy.
/// Code uses the `is_*` methods instead of matching; [`source`] returns the root cause, if there is
/// one.
///
/// Cheap to clone, so that all waiting tasks can receive one error.
///
/// [`source`]: StdError::source
#[derive(Clone)]
pub struct RegistryError {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: Kind,
    what: String,
    registry: Option<String>,
    hint: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    UnsupportedScheme,
    InvalidUri,
    Unavailable,
    PermissionDenied,
    Corrupt,
    UnsupportedFormat,
    InvalidInstance,
    Timeout,
    AlreadyExists,
}

/// The kind of an error.
impl RegistryError {
    /// The scheme of the URI is unknown.
    pub fn is_unsupported_scheme(&self) -> bool {
        self.inner.kind == Kind::UnsupportedScheme
    }

    /// The URI is invalid, or a parameter is unknown or out of range.
    pub fn is_invalid_uri(&self) -> bool {
        self.inner.kind == Kind::InvalidUri
    }

    /// The registry is not available: not reachable, removed, disk full, not a folder.
    pub fn is_unavailable(&self) -> bool {
        self.inner.kind == Kind::Unavailable
    }

    /// The process lacks a permission.
    pub fn is_permission_denied(&self) -> bool {
        self.inner.kind == Kind::PermissionDenied
    }

    /// The stored data cannot be read.
    pub fn is_corrupt(&self) -> bool {
        self.inner.kind == Kind::Corrupt
    }

    /// The stored data was written by an incompatible version.
    pub fn is_unsupported_format(&self) -> bool {
        self.inner.kind == Kind::UnsupportedFormat
    }

    /// An instance or a service name is invalid: see
    /// [`Instance::validate`](crate::Instance::validate).
    pub fn is_invalid_instance(&self) -> bool {
        self.inner.kind == Kind::InvalidInstance
    }

    /// A timeout has passed, such as the wait for a lock.
    pub fn is_timeout(&self) -> bool {
        self.inner.kind == Kind::Timeout
    }

    /// The id is registered and alive, or the scheme is registered.
    pub fn is_already_exists(&self) -> bool {
        self.inner.kind == Kind::AlreadyExists
    }
}

/// Constructors for the authors of back ends. `what` is a lower-case phrase without a full stop
/// that names the thing and the cause.
impl RegistryError {
    /// An error for which [`is_unsupported_scheme`](Self::is_unsupported_scheme) is true.
    pub fn unsupported_scheme(what: impl Into<String>) -> Self {
        Self::new(Kind::UnsupportedScheme, what.into())
    }

    /// An error for which [`is_invalid_uri`](Self::is_invalid_uri) is true.
    pub fn invalid_uri(what: impl Into<String>) -> Self {
        Self::new(Kind::InvalidUri, what.into())
    }

    /// An error for which [`is_unavailable`](Self::is_unavailable) is true.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, what.into())
    }

    /// An error for which [`is_permission_denied`](Self::is_permission_denied) is true.
    pub fn permission_denied(what: impl Into<String>) -> Self {
        Self::new(Kind::PermissionDenied, what.into())
    }

    /// An error for which [`is_corrupt`](Self::is_corrupt) is true.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, what.into())
    }

    /// An error for which [`is_unsupported_format`](Self::is_unsupported_format) is true.
    pub fn unsupported_format(what: impl Into<String>) -> Self {
        Self::new(Kind::UnsupportedFormat, what.into())
    }

    /// An error for which [`is_invalid_instance`](Self::is_invalid_instance) is true.
    pub fn invalid_instance(what: impl Into<String>) -> Self {
        Self::new(Kind::InvalidInstance, what.into())
    }

    /// An error for which [`is_timeout`](Self::is_timeout) is true.
    pub fn timeout(what: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, what.into())
    }

    /// An error for which [`is_already_exists`](Self::is_already_exists) is true.
    pub fn already_exists(what: impl Into<String>) -> Self {
        Self::new(Kind::AlreadyExists, what.into())
    }

    /// Prefixes the message with the operation that failed.
    pub fn with_context(mut self, what: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.what = format!("{what}: {}", inner.what);
        self
    }

    /// Adds a remedy.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.inner).hint = Some(hint.into());
        self
    }

    /// Adds the URI of the registry, credentials redacted.
    pub fn with_registry(mut self, uri: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.inner).registry = Some(uri.into());
        self
    }

    /// Adds the cause. The message should contain it: most callers print only the message.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Arc::make_mut(&mut self.inner).source = Some(Arc::from(source.into()));
        self
    }

    fn new(kind: Kind, what: String) -> Self {
        Self { inner: Arc::new(Inner { kind, what, registry: None, hint: None, source: None }) }
    }
}

/// Formats the error as one line. Text of a registry or a server is escaped.
impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printable(&self.inner.what))?;
        if let Some(registry) = &self.inner.registry {
            write!(f, " (registry {})", Printable(registry))?;
        }
        if let Some(hint) = &self.inner.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RegistryError");
        debug.field("kind", &self.inner.kind).field("message", &self.to_string());
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for RegistryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_says_what_where_and_what_to_do() {
        let error = RegistryError::timeout("cannot lock /r/registry.lock")
            .with_registry("file:///r")
            .with_hint("stop the holder");
        assert_eq!(
            error.to_string(),
            "cannot lock /r/registry.lock (registry file:///r); stop the holder"
        );
    }

    #[test]
    fn what_it_leads_to_is_said_first_and_the_registry_once() {
        let error = RegistryError::timeout("no answer").with_registry("x:").with_hint("start it");
        let error = error.with_context("cannot renew the lease");
        assert_eq!(error.to_string(), "cannot renew the lease: no answer (registry x:); start it");
        assert!(error.is_timeout());
    }

    #[test]
    fn what_others_have_written_is_one_line() {
        let entry = "x\n2026-01-01 ERROR all is lost\u{1b}[2J";
        let error = RegistryError::corrupt(entry).with_registry("file:///r\r\n").with_hint("look");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(char::is_control), "{shown}");
        assert!(shown.starts_with(r"x\n2026-01-01 ERROR all is lost\u{1b}[2J"), "{shown}");
    }

    #[test]
    fn clone_keeps_kind_and_source() {
        let cause = std::io::Error::other("the root");
        let error = RegistryError::unavailable("gone").with_source(cause).clone();
        assert!(error.is_unavailable() && !error.is_timeout());
        assert_eq!(error.source().unwrap().to_string(), "the root");
    }
}
