//! A minimal framing for calls: a length, an id, a method, a payload.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a frame before its payload: length of what follows (u32), id (u64), method (u64).
pub const HEADER: usize = 20;
const LENGTH: usize = 4;
/// Maximum length of a frame.
const MAX: usize = 16 << 20;
/// Minimum space for a read.
const READ: usize = 64 << 10;

/// A complete frame at the beginning of the input.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The id of the call.
    pub id: u64,
    /// The number of the method.
    pub method: u64,
    /// The values.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Length in bytes, with the header.
    pub fn len(&self) -> usize {
        HEADER + self.payload.len()
    }

    /// A frame is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, id: u64, method: u64, payload: &[u8]) {
    let begin = begin(out, id, method);
    out.extend_from_slice(payload);
    end(out, begin);
}

/// Appends the header of a frame. Append the payload next, then call [`end`].
pub fn begin(out: &mut Vec<u8>, id: u64, method: u64) -> usize {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&method.to_le_bytes());
    begin
}

/// Writes the length of the frame that began at `begin` and ends here.
pub fn end(out: &mut [u8], begin: usize) {
    let length = (out.len() - begin - LENGTH) as u32;
    if let Some(field) = out.get_mut(begin..begin + LENGTH) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

/// The first frame of `bytes`, if it is whole.
#[inline]
pub fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let payload = rest.get(..length(header)?.checked_sub(HEADER)?)?;
    let (fields, _) = header[LENGTH..].as_chunks::<8>();
    let [id, method] = fields else { return None };
    Some(Frame { id: u64::from_le_bytes(*id), method: u64::from_le_bytes(*method), payload })
}

/// The length of the first frame with its header, if known.
fn length(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|length| u32::from_le_bytes(*length) as usize + LENGTH)
}

/// Reads at least one byte; `false` at the end.
pub async fn fill(reader: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> io::Result<bool> {
    let length = length(bytes).unwrap_or(0);
    if length > MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let missing = length.saturating_sub(bytes.len());
    let room = bytes.capacity() - bytes.len();
    if room < missing.max(READ / 4) {
        bytes.reserve(missing.max(READ));
    }
    Ok(reader.read_buf(bytes).await? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_only_when_it_is_whole() {
        let mut out = Vec::new();
        put(&mut out, 7, 3, b"payload");
        put(&mut out, 8, 0, b"");
        for short in 0..27 {
            assert!(first(&out[..short]).is_none());
        }
        let frame = first(&out).unwrap();
        assert_eq!((frame.id, frame.method, frame.payload), (7, 3, &b"payload"[..]));
        assert_eq!(first(&out[frame.len()..]).unwrap().id, 8);
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_refused_from_its_length() {
        let mut bytes = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(fill(&mut tokio::io::empty(), &mut bytes).await.is_err());
    }
}
