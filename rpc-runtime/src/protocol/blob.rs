//! [`Blob`]: bytes that cross without being copied.
//!
//! serde shows a serializer no more than a slice, and takes from a deserializer no more than that.
//! So the owner of the bytes travels beside it, in a thread-local that is set around exactly that
//! step, and is used only where it has the very bytes that the slice shows.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Minimum size of bytes that are sent without being copied. Below it, a copy costs less than
/// another piece of a vectored write.
pub(crate) const KEPT_WHOLE: usize = 16 << 10;

/// Bytes that are not copied on their way through the framework, if they are 16 KiB or more.
///
/// As an argument or a result, or anywhere within one. They are sent from where they are, and what
/// arrives is a part of the buffer that it was read into; it keeps no more than twice its own size
/// of that. A `Vec<u8>` travels as an array of numbers and is copied at both ends, and is read and
/// written byte by byte.
///
/// On the wire it is MessagePack's `bin`, so an end that has `serde_bytes::ByteBuf` or `Bytes` in
/// its place, with `serde_bytes` or `bytes/serde`, talks with one that has a `Blob`. In a
/// stream's items it works, too, but is copied.
///
/// ```
/// use rpc_runtime::{Blob, rpc_service};
///
/// #[rpc_service]
/// trait Files {
///     async fn read(&self, name: String) -> rpc_runtime::Result<Blob>;
/// }
///
/// let blob = Blob::from(vec![7; 1 << 20]);
/// assert_eq!(blob.len(), 1 << 20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(Bytes);

impl Deref for Blob {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Blob> for Bytes {
    fn from(blob: Blob) -> Self {
        blob.0
    }
}

/// Copies, unless this is the only reference to the bytes.
impl From<Blob> for Vec<u8> {
    fn from(blob: Blob) -> Self {
        blob.0.into()
    }
}

thread_local! {
    /// The blob that is being serialized.
    static SERIALIZED: RefCell<Option<Bytes>> = const { RefCell::new(None) };
    /// The payload that is being deserialized, if parts of it may be kept.
    static PAYLOAD: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

type Slot = std::thread::LocalKey<RefCell<Option<Bytes>>>;

/// Puts back what was in the slot before.
struct Restore(&'static Slot, Option<Bytes>);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.set(self.1.take());
    }
}

/// Runs `run` while the owner of the bytes is in the slot.
fn with_owner<R>(slot: &'static Slot, owner: &Bytes, run: impl FnOnce() -> R) -> R {
    let _restore = Restore(slot, slot.replace(Some(owner.clone())));
    run()
}

/// The part of the owner's bytes that `part` is.
fn owned_part(slot: &'static Slot, part: &[u8]) -> Option<Bytes> {
    slot.with_borrow(|owner| {
        // It would keep all of it: at most twice what is wanted.
        let owner = owner.as_ref().filter(|owner| part.len() >= owner.len() / 2)?;
        part_of(owner, part)
    })
}

/// `part` with its owner, if it lies within the owner's bytes.
pub(crate) fn part_of(owner: &Bytes, part: &[u8]) -> Option<Bytes> {
    let start = part.as_ptr().addr().checked_sub(owner.as_ptr().addr())?;
    let end = start.checked_add(part.len()).filter(|end| *end <= owner.len())?;
    Some(owner.slice(start..end))
}

/// The blob that is being serialized, if these are its bytes.
pub(super) fn serialized(bytes: &[u8]) -> Option<Bytes> {
    owned_part(&SERIALIZED, bytes)
}

/// Decodes `payload`; large blobs in it become parts of it.
pub(crate) fn decoding<R>(payload: Option<&Bytes>, decode: impl FnOnce() -> R) -> R {
    match payload {
        Some(payload) => with_owner(&PAYLOAD, payload, decode),
        None => decode(),
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.len() < KEPT_WHOLE {
            return serializer.serialize_bytes(&self.0);
        }
        with_owner(&SERIALIZED, &self.0, || serializer.serialize_bytes(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Blob, E> {
                match owned_part(&PAYLOAD, bytes).filter(|_| bytes.len() >= KEPT_WHOLE) {
                    Some(part) => Ok(Blob(part)),
                    None => self.visit_bytes(bytes),
                }
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }

            /// An end that has a `Vec<u8>` in its place.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Blob, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Output;
    use crate::protocol::payload::{self, Form};

    fn is_part_of(part: &[u8], whole: &[u8]) -> bool {
        whole.as_ptr_range().contains(&part.as_ptr())
    }

    #[test]
    fn a_large_blob_is_neither_copied_into_the_output_nor_out_of_the_payload() {
        for form in [Form::Named, Form::Compact] {
            let blob = Blob::from(vec![7; KEPT_WHOLE]);
            let mut out = Output::default();
            payload::encode(&(1_u8, &blob, "end"), form, &mut out).unwrap();
            assert!(out.slice_of(&blob).is_some_and(|sent| sent.as_ptr() == blob.as_ptr()));
            let payload = Bytes::from(out.to_vec());
            let read = || payload::decode::<(u8, Blob, String)>(&payload).unwrap();
            let (_, part, end) = decoding(Some(&payload), read);
            assert_eq!((&part, end.as_str()), (&blob, "end"));
            assert!(is_part_of(&part, &payload));
            // Nothing is left behind for what comes next.
            assert!(!is_part_of(&read().1, &payload));
            assert!(serialized(&blob).is_none());
        }
    }

    #[test]
    fn small_blobs_are_copied_and_do_not_keep_a_large_payload() {
        let small = Blob::from(vec![7; KEPT_WHOLE - 1]);
        let mut out = Output::default();
        payload::encode(&small, Form::Named, &mut out).unwrap();
        assert!(out.single(0).is_some());
        let blobs = vec![Blob::from(vec![7; KEPT_WHOLE]); 8];
        let mut out = Vec::new();
        payload::encode(&blobs, Form::Named, &mut out).unwrap();
        let payload = Bytes::from(out);
        let read = decoding(Some(&payload), || payload::decode::<Vec<Blob>>(&payload)).unwrap();
        assert!(read == blobs && !read.iter().any(|blob| is_part_of(blob, &payload)));
    }

    #[test]
    fn other_formats_and_other_types_read_and_write_it() {
        let blob = Blob::from(vec![0xff; KEPT_WHOLE]);
        let text = decoding(Some(&blob), || serde_json::to_string(&blob)).unwrap();
        assert_eq!(serde_json::from_str::<Blob>(&text).unwrap(), blob);
        let mut numbers = Vec::new();
        payload::encode(&vec![1_u8, 2, 3], Form::Named, &mut numbers).unwrap();
        assert_eq!(*payload::decode::<Blob>(&numbers).unwrap(), [1, 2, 3][..]);
    }
}
