//! Tests of one program that run one after the other, since they measure what a process spends.

use tokio::sync::{Mutex, MutexGuard};

static TURN: Mutex<()> = Mutex::const_new(());

/// Waits until no other test has its turn. The turn ends when the result is dropped.
pub async fn mine() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// The same outside of a runtime.
pub fn mine_blocking() -> MutexGuard<'static, ()> {
    TURN.blocking_lock()
}
