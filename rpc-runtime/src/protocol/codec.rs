//! From bytes to frames and back.

use super::frame::{Body, Frame};
use super::header::{HEADER_LEN, Header, Kind};
use super::output::Output;
use crate::error::RpcError;
use crate::status::Status;

/// What a [`Codec`] made of the bytes it was shown.
#[non_exhaustive]
pub enum Decoded<'a> {
    /// There is no whole frame yet. `needed` is how many bytes there must be before another look
    /// is of use; it is at most the payload limit and a header.
    Incomplete {
        /// Bytes from the front of the input.
        needed: usize,
    },
    /// A frame, and how many bytes it took up.
    Frame {
        /// The frame.
        frame: Frame<'a>,
        /// Bytes to drop from the front of the input.
        consumed: usize,
    },
    /// Bytes that belong to nothing (the rest of a frame that was too large).
    Discarded {
        /// Bytes to drop from the front of the input.
        consumed: usize,
    },
    /// Another codec is to look at the same bytes, from now on. This is how one port serves several
    /// protocols: a codec that only looks at the first bytes, and then steps aside.
    Switch(Box<dyn Codec>),
}

/// The head of a pipeline: it finds the frames in the bytes of one connection.
///
/// The bytes that were not consumed are shown again, with more behind them; a codec keeps none, so
/// none are lost when it is replaced.
pub trait Codec: Send + 'static {
    /// Looks at the front of `input`.
    ///
    /// # Errors
    /// The stream is beyond repair: it is not known where the next frame begins. Damage within a
    /// frame is no such error; it is shown to the handlers as a frame.
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, RpcError>;

    /// Appends `frame` to `out`.
    ///
    /// # Errors
    /// The frame cannot be written. Nothing was appended, and the connection stays open.
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Output) -> Result<(), RpcError>;
}

/// Magic and version.
const CHECKED_FIRST: usize = 3;

/// The codec of this crate's own protocol.
#[derive(Debug)]
pub struct FrameCodec {
    max_payload: usize,
    max_control: usize,
    /// Bytes of a frame that was too large which are still to come.
    discard: usize,
}

impl FrameCodec {
    /// Payloads of more than `max_payload` bytes are neither read nor written.
    pub fn new(max_payload: usize) -> Self {
        let max_payload = max_payload.min(u32::MAX as usize);
        Self { max_payload, max_control: max_payload, discard: 0 }
    }

    /// The same, with another limit for frames that carry no user's data, such as the hello.
    #[must_use]
    pub fn with_max_control(mut self, max_control: usize) -> Self {
        self.max_control = max_control.min(u32::MAX as usize);
        self
    }

    fn limit(&self, kind: Kind) -> usize {
        match kind {
            Kind::Request | Kind::Response | Kind::Oneway | Kind::StreamData => self.max_payload,
            _ => self.max_control,
        }
    }
}

impl Codec for FrameCodec {
    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, RpcError> {
        if self.discard > 0 && !input.is_empty() {
            let consumed = self.discard.min(input.len());
            self.discard -= consumed;
            return Ok(Decoded::Discarded { consumed });
        }
        let Some(header) = Header::decode(input)? else {
            // A peer that speaks another protocol may never send as much as a header.
            let needed = if input.len() < CHECKED_FIRST { CHECKED_FIRST } else { HEADER_LEN };
            return Ok(Decoded::Incomplete { needed });
        };
        let length = header.length as usize;
        let limit = self.limit(header.kind);
        if length > limit {
            self.discard = length;
            let body = Body::TooLarge { limit };
            return Ok(Decoded::Frame { frame: Frame { header, body }, consumed: HEADER_LEN });
        }
        let end = HEADER_LEN + length;
        Ok(match input.get(HEADER_LEN..end) {
            Some(body) => Decoded::Frame { frame: Frame::new(header, body), consumed: end },
            None => Decoded::Incomplete { needed: end },
        })
    }

    #[inline]
    fn encode(&mut self, frame: &Frame<'_>, out: &mut Output) -> Result<(), RpcError> {
        let bytes = frame.body.len();
        let limit = self.limit(frame.header.kind);
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= limit);
        let Some(length) = length else {
            return Err(RpcError::new(
                Status::TooLarge,
                format!("payload of {bytes} bytes is over the limit of {limit} bytes"),
            )
            .unexecuted());
        };
        let header = Header { length, ..frame.header }.encode();
        match &frame.body {
            Body::Owned(bytes) => {
                out.extend_from_slice(&header);
                out.append(bytes.clone());
            }
            Body::Pieces(pieces) => {
                out.extend_from_slice(&header);
                out.append_all(pieces.output());
            }
            Body::Slice(_) | Body::TooLarge { .. } => {
                out.reserve(HEADER_LEN + bytes);
                out.extend_from_slice(&header);
                out.extend_from_slice(frame.body.as_slice());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Output::default();
        let header = Header { id, ..Header::new(Kind::Request) };
        FrameCodec::new(1 << 20).encode(&Frame::new(header, body), &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn a_frame_over_the_limit_is_known_from_its_header_and_the_next_one_is_found() {
        let mut codec = FrameCodec::new(10);
        let long = request(1, &[7; 11]);
        let Decoded::Frame { frame, consumed } = codec.decode(&long[..HEADER_LEN]).unwrap() else {
            panic!()
        };
        assert_eq!((frame.header.id, frame.header.length, consumed), (1, 11, HEADER_LEN));
        assert!(matches!(frame.body, Body::TooLarge { limit: 10 }));

        let mut rest = long[HEADER_LEN..].to_vec();
        rest.extend(request(2, b"ok"));
        let Decoded::Discarded { consumed } = codec.decode(&rest).unwrap() else { panic!() };
        let Decoded::Frame { frame, .. } = codec.decode(&rest[consumed..]).unwrap() else {
            panic!()
        };
        assert_eq!((frame.header.id, frame.body.as_slice()), (2, &b"ok"[..]));
    }

    #[test]
    fn a_payload_over_the_limit_is_not_written_and_the_error_has_size_and_limit() {
        let mut out = Output::default();
        let error = FrameCodec::new(10)
            .encode(&Frame::new(Header::new(Kind::Request), &[0; 11]), &mut out)
            .unwrap_err();
        assert!(error.is_too_large() && error.is_safe_to_retry());
        assert!(
            error.message().contains("11 bytes") && error.message().contains("10 bytes"),
            "{error}"
        );
        assert!(out.is_empty());
    }

    #[test]
    fn needed_never_exceeds_limit_and_header() {
        let mut codec = FrameCodec::new(100);
        let frame = request(1, &[0; 100]);
        for cut in 0..frame.len() {
            let Decoded::Incomplete { needed } = codec.decode(&frame[..cut]).unwrap() else {
                panic!()
            };
            assert!(needed > cut && needed <= HEADER_LEN + 100);
        }
    }
}
