//! The outcome of a call as a number on the wire.

use std::fmt;

/// The outcome of a call.
///
/// The numbers are part of the wire protocol (`docs/protocol.md`) and never change their meaning. A
/// number that this version does not know is read as [`Status::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Status {
    /// The method returned `Ok`; the payload is its value.
    Ok = 0,
    /// The method returned `Err`; the payload is the error value of the contract.
    Application = 1,
    /// Arguments or result did not decode as the types of the contract.
    Decode = 10,
    /// The provider has no such service or method, or only in an incompatible version.
    NotFound = 20,
    /// The deadline passed.
    Timeout = 30,
    /// The caller cancelled the call, or the provider ended it.
    Cancelled = 31,
    /// A limit on concurrent work was reached.
    Overloaded = 40,
    /// A payload is over the limit.
    TooLarge = 41,
    /// There is no usable connection, or it ended before the response.
    Unavailable = 50,
    /// The method panicked or failed outside its contract.
    Internal = 60,
    /// The peer uses another protocol or another version of it, or broke its rules.
    Protocol = 70,
    /// Something that the user gave is invalid, such as a URI or a setting.
    Invalid = 80,
    /// The caller is not authenticated: it has no credentials, or none that are accepted.
    Unauthenticated = 90,
    /// The caller is authenticated and does not have the permission.
    PermissionDenied = 91,
}

impl Status {
    /// The status with this number on the wire.
    pub const fn from_wire(number: u16) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Application,
            10 => Self::Decode,
            20 => Self::NotFound,
            30 => Self::Timeout,
            31 => Self::Cancelled,
            40 => Self::Overloaded,
            41 => Self::TooLarge,
            50 => Self::Unavailable,
            70 => Self::Protocol,
            80 => Self::Invalid,
            90 => Self::Unauthenticated,
            91 => Self::PermissionDenied,
            _ => Self::Internal,
        }
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The name used in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Application => "application error",
            Self::Decode => "decode",
            Self::NotFound => "not found",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::TooLarge => "too large",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Protocol => "protocol",
            Self::Invalid => "invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission denied",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_the_wire_and_unknown_numbers_read_as_internal() {
        for number in 0..=u16::MAX {
            let status = Status::from_wire(number);
            assert!(status.to_wire() == number || status == Status::Internal);
        }
    }
}
