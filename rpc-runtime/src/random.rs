//! Random numbers for jitter. Not for secrets.

use std::hash::{BuildHasher, RandomState};

/// A number in 0..1. The standard library's hasher keys are random, which is enough for this.
pub(crate) fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
