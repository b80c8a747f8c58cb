//! Random numbers for jitter. Not for secrets.

use std::hash::{BuildHasher, RandomState};

/// A random number of at least 0 and less than 1. The source is the random keys of the standard
/// library's hasher.
pub(crate) fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
