//! [`Encoding`].

use crate::connection::Channel;
use crate::protocol::payload::Form;

/// Encoding of structs: maps from field name to value, or arrays of values. A response has the
/// encoding of its request.
///
/// Maps can be read by older and newer versions of a struct. Arrays are smaller and faster, but a
/// field is identified by its position only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Arrays for methods whose arguments and result have the same shapes at both ends, which the
    /// provider announces when a connection opens. Maps for all other methods. The default.
    ///
    /// A type whose shape cannot be determined counts as different: a type with
    /// `#[serde(flatten)]`, an untagged or internally tagged enum, a field with an `alias`, a type
    /// that serializes differently from how it deserializes.
    #[default]
    ByContract,
    /// Always maps.
    Named,
    /// Always arrays, for providers that do not announce shapes. Both ends must have identical types.
    /// With a provider of another version, values may be assigned to other fields without an error.
    /// The same applies to types that serialize other fields than they deserialize, or in another
    /// order (`skip_serializing`, `into` with `from`).
    ///
    /// A value that omits fields (`#[serde(skip_serializing_if = "…")]`) is still written as a map.
    Compact,
}

impl Encoding {
    /// The form for a call of this method over this channel; `fingerprint` is this end's.
    #[inline]
    pub(super) fn form(self, channel: &Channel, method: u64, fingerprint: fn() -> u64) -> Form {
        match self {
            Self::ByContract => channel.agreement().form(method, fingerprint),
            Self::Named => Form::Named,
            Self::Compact => Form::Compact,
        }
    }
}
