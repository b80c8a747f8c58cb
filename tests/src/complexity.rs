//! Checks that work on many objects takes about linear time.

use std::time::Duration;

/// Maximum ratio of the costs of `4 * n` and `n`. Linear work has 4, quadratic work 16.
const MOST: f64 = 8.0;
/// Measurements of each size. The minimum counts, since disturbances only add.
const ROUNDS: usize = 3;

/// Fails the test if the cost of `4 * n` is clearly more than four times that of `n`. `cost` does
/// the work for a number and returns its time; see [`processor_time`].
pub fn is_linear(what: &str, n: usize, mut cost: impl FnMut(usize) -> Duration) {
    let mut least = |n| (0..ROUNDS).map(|_| cost(n)).min().unwrap_or_default();
    let (few, many) = (least(n), least(4 * n));
    let ratio = many.as_secs_f64() / few.as_secs_f64().max(1e-6);
    eprintln!("{what}: {few:?} for {n}, {many:?} for {}: {ratio:.1} times", 4 * n);
    assert!(ratio < MOST, "{what}: {few:?} for {n}, but {many:?} for {}", 4 * n);
}

/// The processor time of this thread, which other programs do not affect.
pub fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}
