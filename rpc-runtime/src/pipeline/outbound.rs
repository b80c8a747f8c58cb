//! [`OutboundBuffer`]: encoded frames that wait to be sent.

use std::collections::VecDeque;

use crate::error::RpcError;
use crate::protocol::{Codec, Frame, Kind, Output};

/// Size from which a portion is complete. A heartbeat waits for at most this, and the end of one
/// frame.
const PORTION_BYTES: usize = 256 << 10;

/// Encoded frames that wait to be sent. Heartbeats come first, then the others in order, in
/// portions of whole frames. So a heartbeat never waits for more than one portion.
#[derive(Default)]
pub(super) struct OutboundBuffer {
    heartbeats: Output,
    /// Older than `queued`.
    full: VecDeque<Output>,
    queued: Output,
}

impl OutboundBuffer {
    /// Appends a frame and returns its length in bytes.
    #[inline]
    pub(super) fn append(
        &mut self,
        codec: &mut dyn Codec,
        frame: &Frame<'_>,
    ) -> Result<usize, RpcError> {
        if matches!(frame.header.kind, Kind::Ping | Kind::Pong) {
            let start = self.heartbeats.len();
            codec.encode(frame, &mut self.heartbeats)?;
            return Ok(self.heartbeats.len() - start);
        }
        let start = self.queued.len();
        codec.encode(frame, &mut self.queued)?;
        let bytes = self.queued.len() - start;
        if self.queued.len() >= PORTION_BYTES {
            self.full.push_back(std::mem::take(&mut self.queued));
        }
        Ok(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.full.is_empty() && self.heartbeats.is_empty()
    }

    /// Frees the buffers if they are empty.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Waiting bytes of heartbeats.
    pub(super) fn heartbeat_bytes(&self) -> usize {
        self.heartbeats.len()
    }

    /// Takes the bytes to be sent next, and keeps `empty` as the next buffer.
    #[inline]
    pub(super) fn take(&mut self, empty: Output) -> Output {
        if !self.heartbeats.is_empty() {
            return std::mem::replace(&mut self.heartbeats, empty);
        }
        match self.full.pop_front() {
            None => std::mem::replace(&mut self.queued, empty),
            Some(portion) => {
                if self.queued.is_empty() {
                    self.queued = empty;
                }
                portion
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Decoded, FrameCodec, Header};

    fn kinds(mut bytes: &[u8]) -> Vec<(Kind, u64)> {
        let mut codec = FrameCodec::new(usize::MAX);
        let mut kinds = Vec::new();
        while let Ok(Decoded::Frame { frame, consumed }) = codec.decode(bytes) {
            kinds.push((frame.header.kind, frame.header.id));
            bytes = &bytes[consumed..];
        }
        kinds
    }

    #[test]
    fn a_heartbeat_waits_for_one_portion_and_the_other_frames_keep_their_order() {
        let mut codec = FrameCodec::new(usize::MAX);
        let mut out = OutboundBuffer::default();
        let mut append = |out: &mut OutboundBuffer, kind, id, bytes| {
            let body = vec![0; bytes];
            let frame = Frame::new(Header { id, ..Header::new(kind) }, &body);
            out.append(&mut codec, &frame).unwrap()
        };
        let bytes: usize =
            (0..20).map(|id| append(&mut out, Kind::Request, id, PORTION_BYTES / 4)).sum();
        let first = out.take(Output::default());
        assert!(first.len() < PORTION_BYTES + PORTION_BYTES / 3, "{} bytes at once", first.len());
        append(&mut out, Kind::Pong, 7, 0);
        append(&mut out, Kind::Request, 20, 0);
        assert_eq!(kinds(&out.take(Output::default()).to_vec()), [(Kind::Pong, 7)]);
        let mut rest = Vec::new();
        while !out.is_empty() {
            rest.extend(out.take(Output::default()).to_vec());
        }
        let mut all = kinds(&first.to_vec());
        all.extend(kinds(&rest));
        assert_eq!(all, (0..=20).map(|id| (Kind::Request, id)).collect::<Vec<_>>());
        assert!(bytes > 4 * PORTION_BYTES && out.heartbeat_bytes() == 0);
    }
}
