//! Whether what is done with many costs more for each of them.

use std::time::Duration;

/// Above this, four times as many cost more than four times as much with certainty: a linear step
/// costs 4 times as much, a quadratic one 16 times.
const MOST: f64 = 8.0;
/// Each size is measured so often; the least counts, since whatever disturbs adds to it.
const ROUNDS: usize = 3;

/// Fails the test if the cost of `4 * n` is more than that of four times `n`. `cost` does the work
/// with so many and returns what it took; see [`processor_time`].
pub fn is_linear(what: &str, n: usize, mut cost: impl FnMut(usize) -> Duration) {
    let mut least = |n| (0..ROUNDS).map(|_| cost(n)).min().unwrap_or_default();
    let (few, many) = (least(n), least(4 * n));
    let ratio = many.as_secs_f64() / few.as_secs_f64().max(1e-6);
    eprintln!("{what}: {few:?} for {n}, {many:?} for {}: {ratio:.1} times", 4 * n);
    assert!(ratio < MOST, "{what}: {few:?} for {n}, but {many:?} for {}", 4 * n);
}

/// The processor time of this thread, which no other program's work adds to.
pub fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}
