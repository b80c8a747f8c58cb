//! Random numbers for jitter. Not for secrets.

/// A random number of at least 0 and less than 1.
pub(crate) fn random_fraction() -> f64 {
    let bits = rpc_registry::random_u64() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
