//! [`Cause`]: why an error came about, and whether that leaves the process.
//!
//! Causes and peers name files, addresses and other services of the process in which an error arose.
//! So they are left out while a value is encoded for the wire, unless the server exposes them. Serde
//! passes nothing down to a field, so a variable of the thread says which it is.

use std::cell::Cell;
use std::error::Error;
use std::fmt;

use rpc_registry::{limited, printable};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MAX_TEXT, text};

/// Longest chain of causes that is kept.
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
            messages.push(printable(error.to_string(), MAX_TEXT));
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

/// Where what is serialized on this thread goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// It stays in this process, as far as is known.
    Here,
    /// To the other end of a connection.
    Peer,
    /// To the other end, which is to know all.
    TrustedPeer,
}

thread_local! {
    static DESTINATION: Cell<Destination> = const { Cell::new(Destination::Here) };
}

/// Puts the destination back, also after a panic.
struct Restore(Destination);

impl Drop for Restore {
    fn drop(&mut self) {
        DESTINATION.set(self.0);
    }
}

/// Runs `encode`, which writes for the wire: causes and peers are left out, unless this is within
/// [`exposed`].
#[inline]
pub(crate) fn withheld<R>(encode: impl FnOnce() -> R) -> R {
    let before = DESTINATION.get();
    if before != Destination::Here {
        return encode();
    }
    let _restore = Restore(before);
    DESTINATION.set(Destination::Peer);
    encode()
}

/// Runs `run`; if this is `on`, what it encodes for the wire has causes and peers in it.
#[inline]
pub(crate) fn exposed<R>(on: bool, run: impl FnOnce() -> R) -> R {
    if !on {
        return run();
    }
    let _restore = Restore(DESTINATION.replace(Destination::TrustedPeer));
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
            limited!(warn, %causes, "the causes of an error are not told to the peer");
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
