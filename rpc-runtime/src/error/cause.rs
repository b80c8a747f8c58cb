//! [`Cause`]: the causes of an error, and whether they are sent to peers.
//!
//! Causes and peers name files, addresses and other services of the process. So they are left out
//! when a value is encoded for the wire, unless the server exposes them. Serde passes no context to
//! a field, so a thread-local variable holds the destination.

use std::cell::Cell;
use std::error::Error;
use std::fmt;

use rpc_registry::limited;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// Maximum length of a chain of causes.
const MAX_CAUSES: usize = 16;

/// A link of the chain of causes. Only its text is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cause {
    #[serde(deserialize_with = "text::required")]
    message: String,
    #[serde(default)]
    source: Option<Box<Cause>>,
}

impl Cause {
    pub(super) fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut messages = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            if messages.len() == MAX_CAUSES {
                break;
            }
            messages.push(text::bounded(error.to_string()));
            next = error.source();
        }
        let mut cause: Option<Box<Self>> = None;
        for message in messages.into_iter().rev() {
            cause = Some(Box::new(Self { message, source: cause }));
        }
        cause.map_or_else(|| Self { message: String::new(), source: None }, |cause| *cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// The destination of values that are serialized on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// Unknown, taken for this process.
    Here,
    /// The other end of a connection.
    Peer,
    /// The other end, with all details.
    TrustedPeer,
}

thread_local! {
    static DESTINATION: Cell<Destination> = const { Cell::new(Destination::Here) };
}

/// Restores the destination, also after a panic.
struct Restore(Destination);

impl Drop for Restore {
    fn drop(&mut self) {
        DESTINATION.set(self.0);
    }
}

/// Runs `encode`, which writes for the wire. Causes and peers are left out, unless called within
/// [`exposed`].
#[inline]
pub(crate) fn withheld<R>(encode: impl FnOnce() -> R) -> R {
    let before = DESTINATION.get();
    let _restore = Restore(before);
    if before == Destination::Here {
        DESTINATION.set(Destination::Peer);
    }
    encode()
}

/// Runs `run`. If `on`, causes and peers are included in what it encodes for the wire.
#[inline]
pub(crate) fn exposed<R>(on: bool, run: impl FnOnce() -> R) -> R {
    let _restore = on.then(|| Restore(DESTINATION.replace(Destination::TrustedPeer)));
    run()
}

pub(super) fn peer<S: Serializer>(peer: &Option<String>, s: S) -> Result<S::Ok, S::Error> {
    match DESTINATION.get() {
        Destination::Peer => None::<&str>.serialize(s),
        _ => peer.serialize(s),
    }
}

pub(super) fn source<S: Serializer>(source: &Option<Cause>, s: S) -> Result<S::Ok, S::Error> {
    match source {
        Some(cause) if DESTINATION.get() == Destination::Peer => {
            let causes = Chain(cause);
            limited!(warn, %causes, "the causes of an error are not sent to the peer");
            None::<Cause>.serialize(s)
        }
        source => source.serialize(s),
    }
}

pub(super) fn at_most_16<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Cause>, D::Error> {
    let mut cause = Option::<Cause>::deserialize(d)?;
    let mut left = MAX_CAUSES;
    let mut next = cause.as_mut();
    while let Some(cause) = next {
        left = left.saturating_sub(1);
        if left == 0 {
            cause.source = None;
        }
        next = cause.source.as_deref_mut();
    }
    Ok(cause)
}

/// All causes in one line.
struct Chain<'c>(&'c Cause);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
