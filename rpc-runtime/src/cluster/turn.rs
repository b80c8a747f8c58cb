//! [`Turn`]: how long a task works before other tasks run.

/// The work between two yields: a millisecond at most.
const LENGTH: usize = 1_024;
/// The work for an instance that differs from the list before.
pub(super) const CHANGED: usize = 16;
/// The work for an instance that does not differ.
pub(super) const UNCHANGED: usize = 1;

/// The work of a task since it last yielded. A registry's list can be long, and calls run in the
/// same threads.
#[derive(Default)]
pub(super) struct Turn {
    work: usize,
}

impl Turn {
    /// Counts work, and yields to other tasks when there was enough of it.
    pub(super) async fn work(&mut self, work: usize) {
        self.work = self.work.saturating_add(work);
        if self.work >= LENGTH {
            self.work = 0;
            tokio::task::yield_now().await;
        }
    }
}
