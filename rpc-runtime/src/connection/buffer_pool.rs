//! [`BufferPool`]: buffers of large frames, to be used again.

use bytes::{Bytes, BytesMut};

/// Buffers kept at a time.
const MAX_KEPT: usize = 4;
/// Bytes of all buffers that are kept.
const MAX_BYTES: usize = 4 << 20;

/// The buffers that large frames were read into. Somebody may still have what a frame carried; the
/// buffer is used again once nobody has.
///
/// An allocator gives memory of that size back to the operating system when it is freed, and each
/// page of it that is touched again is a fault: for a payload of 1 MiB, a third of all the time that
/// the call takes.
#[derive(Default)]
pub(super) struct BufferPool {
    /// With the sizes of their frames; the oldest first.
    kept: Vec<(usize, Bytes)>,
}

impl BufferPool {
    /// Keeps the buffer of a frame of so many bytes, which `bytes` is a part of.
    pub(super) fn keep(&mut self, frame: usize, bytes: Bytes) {
        self.kept.push((frame, bytes));
        let mut total = self.bytes();
        while self.kept.len() > MAX_KEPT || total > MAX_BYTES {
            let (frame, _) = self.kept.remove(0);
            total -= frame;
        }
    }

    /// Bytes of the buffers that are kept, as far as their frames filled them.
    pub(super) fn bytes(&self) -> usize {
        self.kept.iter().map(|(frame, _)| frame).sum()
    }

    /// An empty buffer with room for `capacity` bytes.
    pub(super) fn take(&mut self, capacity: usize) -> BytesMut {
        let free = self.kept.iter().position(|(_, bytes)| bytes.is_unique());
        let spare = free.and_then(|at| self.kept.remove(at).1.try_into_mut().ok());
        if let Some(mut spare) = spare {
            spare.clear();
            // Too small: frames have grown, so the other buffers are hardly larger.
            if spare.try_reclaim(capacity) {
                return spare;
            }
        }
        BytesMut::with_capacity(capacity)
    }

    /// Gives the memory back.
    pub(super) fn clear(&mut self) {
        self.kept = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn frame(pool: &mut BufferPool, fill: u8) -> Bytes {
        let mut buffer = pool.take(MIB);
        buffer.resize(MIB, fill);
        buffer.freeze()
    }

    /// As the input does it: the whole frame is consumed first.
    fn consumed(mut frame: Bytes) -> Bytes {
        bytes::Buf::advance(&mut frame, MIB);
        frame
    }

    #[test]
    fn the_buffer_of_a_frame_that_nobody_has_any_more_is_used_again() {
        let mut pool = BufferPool::default();
        let first = frame(&mut pool, 1);
        let at = first.as_ptr();
        pool.keep(MIB, consumed(first));
        assert_eq!(frame(&mut pool, 2).as_ptr(), at);
    }

    #[test]
    fn the_buffer_of_a_payload_that_somebody_has_is_left_alone() {
        let mut pool = BufferPool::default();
        let payload = frame(&mut pool, 1);
        pool.keep(MIB, consumed(payload.clone()));
        let other = frame(&mut pool, 2);
        assert!(payload.iter().all(|byte| *byte == 1) && other.iter().all(|byte| *byte == 2));
        let at = payload.as_ptr();
        drop(payload);
        assert_eq!(frame(&mut pool, 3).as_ptr(), at, "now it is free");
    }

    #[test]
    fn no_more_is_kept_than_a_few_megabytes() {
        let mut pool = BufferPool::default();
        for _ in 0..20 {
            pool.keep(MIB, Bytes::from(vec![0; MIB]));
        }
        assert_eq!(pool.kept.len(), 4);
        pool.keep(3 * MIB, Bytes::from(vec![0; 3 * MIB]));
        assert_eq!(pool.kept.len(), 2);
        pool.keep(8 * MIB, Bytes::from(vec![0; 8 * MIB]));
        assert!(pool.kept.is_empty());
    }

    #[test]
    fn a_buffer_that_is_too_small_is_replaced() {
        let mut pool = BufferPool::default();
        pool.keep(MIB, Bytes::from(vec![0; MIB]));
        assert!(pool.take(2 * MIB).capacity() >= 2 * MIB);
        assert!(pool.kept.is_empty());
    }
}
