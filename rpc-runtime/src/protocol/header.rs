//! The 32 bytes at the front of each frame.

use std::fmt;

use crate::error::RpcError;
use crate::status::Status;

/// Default limit of a frame's payload (metadata and arguments, or a result): 8 MiB, Dubbo's.
pub const DEFAULT_MAX_PAYLOAD: usize = 8 << 20;

/// Bytes of a header.
pub const HEADER_LEN: usize = 32;
/// The first two bytes of each frame: `RP`.
pub const MAGIC: [u8; 2] = *b"RP";
/// The version of the protocol that this crate speaks.
pub const VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Limits, features and services of the sender; the first frame in each direction.
    Hello,
    /// A call that is to be answered.
    Request,
    /// The answer to a request.
    Response,
    /// A call that is not answered.
    Oneway,
    /// The caller no longer waits for this request, or the receiver of a stream for its items.
    Cancel,
    /// "Are you there?"
    Ping,
    /// "I am": answers a ping.
    Pong,
    /// The sender is about to close: send no new calls here.
    GoAway,
    /// An item of a stream.
    StreamData,
    /// The receiver of a stream has room for so many more bytes of items.
    StreamCredit,
    /// The end of a stream, with a status.
    StreamEnd,
    /// The sender could not make sense of a frame, or of the connection.
    Error,
    /// A number that this version does not know.
    Unknown(u8),
}

impl Kind {
    /// The kind with this number.
    pub const fn from_wire(number: u8) -> Self {
        match number {
            1 => Self::Hello,
            2 => Self::Request,
            3 => Self::Response,
            4 => Self::Oneway,
            5 => Self::Cancel,
            6 => Self::Ping,
            7 => Self::Pong,
            8 => Self::GoAway,
            9 => Self::StreamData,
            10 => Self::StreamCredit,
            11 => Self::StreamEnd,
            12 => Self::Error,
            other => Self::Unknown(other),
        }
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Request => 2,
            Self::Response => 3,
            Self::Oneway => 4,
            Self::Cancel => 5,
            Self::Ping => 6,
            Self::Pong => 7,
            Self::GoAway => 8,
            Self::StreamData => 9,
            Self::StreamCredit => 10,
            Self::StreamEnd => 11,
            Self::Error => 12,
            Self::Unknown(other) => other,
        }
    }
}

/// Properties of a frame, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// The payload begins with metadata.
    pub const METADATA: Self = Self(1);
    /// Structs in the payload are arrays (compact) and not maps (named). Readers take both without
    /// looking; a provider answers in the form that it was asked in.
    pub const COMPACT: Self = Self(1 << 1);
    /// The payload is compressed. Reserved.
    pub const COMPRESSED: Self = Self(1 << 2);
    /// On an error answer: the method surely did not run.
    pub const UNEXECUTED: Self = Self(1 << 3);

    /// On a request: an argument is a stream, whose items follow. On a response: the result is one.
    pub const STREAM: Self = Self(1 << 4);

    const UNDERSTOOD: u16 =
        Self::METADATA.0 | Self::COMPACT.0 | Self::UNEXECUTED.0 | Self::STREAM.0;

    /// Flags with these bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// All the flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// No flag is set that this version could misread the payload by.
    pub const fn are_understood(self) -> bool {
        self.0 & !Self::UNDERSTOOD == 0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#b})", self.0)
    }
}

/// The front of a frame. All numbers travel big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Properties of the payload.
    pub flags: Flags,
    /// The outcome, on responses and errors; 0 elsewhere. [`Status::from_wire`] reads it.
    pub status: u16,
    /// Which call this belongs to; 0 if to none.
    pub id: u64,
    /// Which method a request is for; 0 elsewhere.
    pub method: u64,
    /// How many milliseconds the caller still waits; 0 if it did not say.
    pub deadline_ms: u32,
    /// Bytes of payload behind the header.
    pub length: u32,
}

impl Header {
    /// A header of this kind with all else zero.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, flags: Flags(0), status: 0, id: 0, method: 0, deadline_ms: 0, length: 0 }
    }

    /// A response to the call `id`.
    pub const fn response(id: u64, status: Status) -> Self {
        let mut header = Self::new(Kind::Response);
        header.id = id;
        header.status = status.to_wire();
        header
    }

    /// Reads the header at the front of `bytes`: `Ok(None)` if it is not whole yet.
    ///
    /// # Errors
    /// Wrong magic or an unknown version. Where the next frame begins is then unknown, so the
    /// connection is of no more use. Reported as early as the bytes show it.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, RpcError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return match bytes {
                [] => Ok(None),
                [first] if *first == MAGIC[0] => Ok(None),
                [first, second, ..] if [*first, *second] == MAGIC => {
                    bytes.get(2).map_or(Ok(None), |version| check_version(*version).map(|()| None))
                }
                _ => Err(bad_magic(bytes)),
            };
        };
        let [m0, m1, version, kind, f0, f1, s0, s1, rest @ ..] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(bad_magic(bytes));
        }
        check_version(version)?;
        let [i0, i1, i2, i3, i4, i5, i6, i7, rest @ ..] = rest;
        let [h0, h1, h2, h3, h4, h5, h6, h7, rest @ ..] = rest;
        let [d0, d1, d2, d3, l0, l1, l2, l3] = rest;
        Ok(Some(Self {
            kind: Kind::from_wire(kind),
            flags: Flags(u16::from_be_bytes([f0, f1])),
            status: u16::from_be_bytes([s0, s1]),
            id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            method: u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]),
            deadline_ms: u32::from_be_bytes([d0, d1, d2, d3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }))
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = self.kind.to_wire();
        bytes[4..6].copy_from_slice(&self.flags.0.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.status.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.method.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.deadline_ms.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

fn check_version(version: u8) -> Result<(), RpcError> {
    if version == VERSION {
        return Ok(());
    }
    Err(RpcError::protocol(format!(
        "protocol version {version} is not spoken here; this end speaks version {VERSION}"
    )))
}

fn bad_magic(bytes: &[u8]) -> RpcError {
    let hint = match bytes {
        // A TLS alert or handshake.
        [0x15 | 0x16, 0x03, ..] => "; it is TLS: the address must begin with tls:// at both ends",
        _ => "",
    };
    RpcError::protocol(format!("not a frame of this protocol: it does not begin with \"RP\"{hint}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_reads_back_as_it_was_written(
            kind: u8, flags: u16, status: u16, id: u64, method: u64, deadline_ms: u32, length: u32
        ) {
            let header = Header {
                kind: Kind::from_wire(kind), flags: Flags(flags), status, id, method, deadline_ms, length,
            };
            prop_assert_eq!(Header::decode(&header.encode()).unwrap(), Some(header));
            prop_assert_eq!(Header::decode(&header.encode()[..HEADER_LEN - 1]).unwrap(), None);
        }

        #[test]
        fn no_bytes_panic_the_header_reader(bytes: Vec<u8>) {
            let _ = Header::decode(&bytes);
        }
    }

    #[test]
    fn wrong_magic_and_version_are_seen_from_the_first_bytes() {
        assert!(Header::decode(b"G").is_err());
        assert!(Header::decode(b"RX").is_err());
        let error = Header::decode(b"RP\x09").unwrap_err();
        assert!(error.is_protocol() && error.message().contains("version 9"), "{error}");
    }
}
