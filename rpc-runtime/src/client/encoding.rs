//! [`Encoding`].

use crate::connection::Channel;
use crate::protocol::payload::Form;

/// How a client writes structs: as maps from field name to value, or as arrays of values. Answers
/// come in the form of the request.
///
/// Named maps are read by old and new versions of a struct. Compact arrays are smaller and faster,
/// but a value is told from the others by its position only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Compact for the methods whose arguments and result have the same shapes at both ends, field
    /// by field, as the provider says when it is connected to; named for all others. The default.
    ///
    /// A type whose shape cannot be told counts as different: one with `#[serde(flatten)]`, an
    /// untagged or internally tagged enum, a field with an `alias`, a type that serializes something
    /// else than it deserializes.
    #[default]
    ByContract,
    /// Always maps.
    Named,
    /// Arrays, whatever the provider says. Both ends must have the very same types: with a provider
    /// of another version, values may be read as those of other fields, without an error. So may
    /// those of types that write other fields than they read, or in another order
    /// (`skip_serializing`, `into` with `from`), at two ends of the same source. For providers that
    /// do not tell their shapes.
    ///
    /// A value that leaves out fields (`#[serde(skip_serializing_if = "…")]`) is written as maps
    /// all the same.
    Compact,
}

impl Encoding {
    /// What a call of this method over this channel is written in; `fingerprint` is this end's.
    #[inline]
    pub(super) fn form(self, channel: &Channel, method: u64, fingerprint: fn() -> u64) -> Form {
        match self {
            Self::ByContract => channel.agreement().form(method, fingerprint),
            Self::Named => Form::Named,
            Self::Compact => Form::Compact,
        }
    }
}
