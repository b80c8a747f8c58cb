//! Waiting that ends.

use std::future::Future;
use std::time::{Duration, Instant};

/// What should take no time at all may take this long on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The output of `future`; fails the test, naming `what`, if it takes longer than `limit`.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not done within {limit:?}"),
    }
}

/// The output of `future`, within [`PATIENCE`].
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    within(PATIENCE, what, future).await
}

/// Waits until `condition` holds; fails the test, naming `what`, if that takes longer than
/// [`PATIENCE`].
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}: not so within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
