//! [`Output`]: encoded bytes on their way out.

use std::io::{self, IoSlice, Write};

use bytes::Bytes;

use super::blob::{self, KEPT_WHOLE};

/// Encoded bytes that wait to be sent, in order. Small pieces are copied together, large ones that
/// have an owner are kept as they are.
#[derive(Clone, Debug, Default)]
pub struct Output {
    small: Vec<u8>,
    /// Each is behind so many bytes of `small`.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
}

impl Output {
    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for so many bytes that are to be copied.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        self.small.reserve(additional);
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// Appends `bytes`, without a copy if they are 16 KiB or more.
    pub fn append(&mut self, bytes: Bytes) {
        if bytes.len() < KEPT_WHOLE {
            self.small.extend_from_slice(&bytes);
        } else {
            self.large_bytes += bytes.len();
            self.large.push((self.small.len(), bytes));
        }
    }

    /// Appends all of `other`; its large pieces without a copy.
    pub fn append_all(&mut self, other: &Output) {
        let mut from = 0;
        for (at, bytes) in &other.large {
            self.small.extend_from_slice(other.small.get(from..*at).unwrap_or_default());
            self.append(bytes.clone());
            from = *at;
        }
        self.small.extend_from_slice(other.small.get(from..).unwrap_or_default());
    }

    /// Drops what is behind the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        while let Some((at, bytes)) = self.large.last_mut() {
            let before = *at + self.large_bytes - bytes.len();
            if len >= before + bytes.len() {
                break;
            }
            self.small.truncate(*at);
            self.large_bytes -= bytes.len();
            if len > before {
                bytes.truncate(len - before);
                self.large_bytes += bytes.len();
                return;
            }
            self.large.pop();
        }
        self.small.truncate(len.saturating_sub(self.large_bytes));
    }

    /// Takes out all that is behind the first `at` bytes, none of which are in large pieces.
    pub(crate) fn split_off_small(&mut self, at: usize) -> Self {
        let small = match at {
            0 => std::mem::take(&mut self.small),
            _ => self.small.split_off(at.min(self.small.len())),
        };
        let mut large = std::mem::take(&mut self.large);
        large.iter_mut().for_each(|(start, _)| *start = start.saturating_sub(at));
        Self { small, large, large_bytes: std::mem::take(&mut self.large_bytes) }
    }

    /// What was copied, if that is all.
    pub(crate) fn into_small(self) -> Result<Vec<u8>, Self> {
        if self.large.is_empty() { Ok(self.small) } else { Err(self) }
    }

    /// The buffer for what is copied.
    pub(crate) fn small_mut(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// All bytes in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }

    /// The pieces in order; some may be empty.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.large.iter().map(|(at, _)| *at));
        let ends = self.large.iter().map(|(at, _)| *at).chain(std::iter::once(self.small.len()));
        let copied = starts.zip(ends).map(|(start, end)| self.small.get(start..end));
        let large = self.large.iter().map(|(_, bytes)| &**bytes).chain(std::iter::once(&[][..]));
        copied.zip(large).flat_map(|(copied, large)| [copied.unwrap_or_default(), large])
    }

    /// Fills `slices` with what is behind the first `from` bytes, as far as it goes. Returns how
    /// many it filled.
    pub(crate) fn slices<'a>(&'a self, from: usize, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = from;
        let rest = self.pieces().filter_map(|piece| {
            let rest = piece.get(skip..);
            skip = skip.saturating_sub(piece.len());
            rest.filter(|rest| !rest.is_empty())
        });
        let filled = slices.iter_mut().zip(rest).map(|(slice, rest)| *slice = IoSlice::new(rest));
        filled.count()
    }

    /// The bytes behind the first `from`, if they are one piece.
    #[inline]
    pub(crate) fn single(&self, from: usize) -> Option<&[u8]> {
        if self.large.is_empty() { self.small.get(from..) } else { None }
    }

    /// Empty again; keeps its allocation, unless that is larger than `max_kept`.
    pub(crate) fn cleared(mut self, max_kept: usize) -> Self {
        self.small.clear();
        if self.small.capacity() > max_kept {
            self.small = Vec::new();
        }
        self.large = Vec::new();
        self.large_bytes = 0;
        self
    }
}

/// Small pieces are copied into it.
impl From<Vec<u8>> for Output {
    fn from(small: Vec<u8>) -> Self {
        Self { small, ..Self::default() }
    }
}

impl Write for Output {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Some(bytes).filter(|bytes| bytes.len() >= KEPT_WHOLE).and_then(blob::serialized) {
            Some(blob) => self.append(blob),
            None => self.small.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where values are encoded to.
pub(crate) trait Sink: Write {
    /// Bytes that are there.
    fn written(&self) -> usize;

    /// Drops what is behind the first `len` bytes.
    fn take_back(&mut self, len: usize);
}

impl Sink for Output {
    #[inline]
    fn written(&self) -> usize {
        self.len()
    }

    fn take_back(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn written(&self) -> usize {
        self.len()
    }

    fn take_back(&mut self, len: usize) {
        self.truncate(len);
    }
}

#[cfg(test)]
impl Output {
    /// Where such bytes are.
    pub(crate) fn slice_of(&self, bytes: &[u8]) -> Option<&[u8]> {
        self.pieces().find(|piece| *piece == bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_of_any_size_leave_in_order_from_wherever_the_last_write_ended(
            sizes in prop::collection::vec((0_usize..3 * KEPT_WHOLE, any::<bool>()), 0..8),
            written in prop::collection::vec(1_usize..2 * KEPT_WHOLE, 1..8),
            at_once in 1_usize..4,
            cut in 0_usize..30 * KEPT_WHOLE,
        ) {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for (number, (size, owned)) in sizes.into_iter().enumerate() {
                let piece: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
                expected.extend_from_slice(&piece);
                if owned { output.append(piece.into()) } else { output.extend_from_slice(&piece) }
            }
            prop_assert_eq!(output.len(), expected.len());
            prop_assert_eq!(output.to_vec(), expected.clone());
            let mut sent = Vec::new();
            for limit in written.into_iter().cycle() {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = output.slices(sent.len(), &mut slices[..at_once]);
                let bytes = slices[..filled].iter().flat_map(|slice| slice.iter()).copied();
                let before = sent.len();
                sent.extend(bytes.take(limit));
                if sent.len() == before {
                    break;
                }
            }
            prop_assert_eq!(&sent, &expected);
            let mut twice = output.clone();
            twice.append_all(&output);
            prop_assert_eq!(twice.to_vec(), [&sent[..], &sent].concat());
            twice.truncate(cut.min(twice.len()));
            prop_assert_eq!(twice.len(), cut.min(2 * sent.len()));
            prop_assert_eq!(twice.to_vec(), [&sent[..], &sent].concat()[..twice.len()].to_vec());
            prop_assert!(output.cleared(0).is_empty());
        }
    }
}
