//! Dummies for tracing: values of the primitive types, and what they are compared by.

use crate::descriptor::fnv1a;

/// Dummies of a type. They differ from place to place, so that exchanged values are noticed.
pub(super) trait Sample: Sized {
    /// The dummies for the value number `place` of a pass: the first one, and those that are tried
    /// if it is refused.
    fn samples(place: usize) -> Vec<Self>;

    fn empty() -> Self;

    /// A value for comparisons.
    fn digest(&self) -> u64;
}

/// A small number for a place. Many types have a limited range.
fn small(place: usize) -> u8 {
    (place % 50) as u8 + 3
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl Sample for $type {
            fn samples(place: usize) -> Vec<Self> {
                [small(place), 1, 0, 2].map(|number| number as Self).into()
            }

            fn empty() -> Self {
                0 as Self
            }

            fn digest(&self) -> u64 {
                *self as u64
            }
        })*
    };
}

numbers!(i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64);

impl Sample for () {
    fn samples(_: usize) -> Vec<Self> {
        vec![()]
    }

    fn empty() -> Self {}

    fn digest(&self) -> u64 {
        0
    }
}

impl Sample for bool {
    fn samples(place: usize) -> Vec<Self> {
        let first = place.is_multiple_of(2);
        vec![first, !first]
    }

    fn empty() -> Self {
        false
    }

    fn digest(&self) -> u64 {
        u64::from(*self)
    }
}

impl Sample for char {
    fn samples(place: usize) -> Vec<Self> {
        vec![char::from(b'a' + (place % 26) as u8), '0', '\0']
    }

    fn empty() -> Self {
        '\0'
    }

    fn digest(&self) -> u64 {
        u64::from(*self)
    }
}

impl Sample for String {
    fn samples(place: usize) -> Vec<Self> {
        vec![format!("s{place}"), Self::new(), "0".to_owned(), "a".to_owned()]
    }

    fn empty() -> Self {
        Self::new()
    }

    fn digest(&self) -> u64 {
        self.as_str().digest()
    }
}

impl Sample for Vec<u8> {
    /// Also the usual fixed lengths of ids and hashes.
    fn samples(place: usize) -> Vec<Self> {
        [1, 0, 16, 4, 32, 8, 12, 20, 24, 64].map(|len| vec![small(place); len]).into()
    }

    fn empty() -> Self {
        Self::new()
    }

    fn digest(&self) -> u64 {
        self.as_slice().digest()
    }
}

/// [`Sample::digest`] for written values.
pub(super) trait Digest {
    fn digest(&self) -> u64;
}

impl Digest for str {
    fn digest(&self) -> u64 {
        self.as_bytes().digest()
    }
}

impl Digest for [u8] {
    fn digest(&self) -> u64 {
        fnv1a(0, self, self.len())
    }
}
