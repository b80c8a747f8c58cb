//! Tests of one program that measure what a process spends, and so do not run beside each other.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// Waits until no other test has its turn. The turn ends when the result is dropped.
pub async fn mine() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

/// The same outside of a runtime.
pub fn mine_blocking() -> RwLockWriteGuard<'static, ()> {
    TURN.blocking_write()
}

/// The same for tests that bear others of this kind, since they measure only memory of their
/// children, or are lenient with time.
pub async fn shared() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}
