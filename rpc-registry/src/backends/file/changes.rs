//! [`Change`]: a change of the list that waits to be written, and the queue of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::lease::LeaseFile;
use super::process_lease::ProcessLease;
use crate::back_end::{Announcement, Claim};
use crate::sync::Mutex;
use crate::{Instance, RegistryError};

/// Maximum number of changes that are written together, so that the first does not wait long for
/// the last.
const MAX_TOGETHER: usize = 512;

/// Receives the result of a change.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// A change of the list.
pub(super) enum Change {
    Add {
        instance: Instance,
        claim: Claim,
        lease_time: Duration,
        /// Makes the announcement once the entry is in the list.
        announce: Box<dyn FnOnce(Added) -> Announcement + Send>,
        reply: Reply<Announcement>,
    },
    /// Returns whether the registration was alive.
    Remove { service: String, id: String, reply: Reply<bool> },
    /// Removes an entry whose lease was released.
    Clean { entry: EntryKey, reply: Reply<()> },
}

/// A registration that was added to the list.
pub(super) struct Added {
    pub(super) instance: Instance,
    pub(super) process_lease: Arc<ProcessLease>,
    pub(super) lease: LeaseFile,
}

/// Identifies an entry of the list.
#[derive(Debug, Clone)]
pub(super) struct EntryKey {
    pub(super) service: String,
    pub(super) id: String,
    pub(super) lease: String,
}

impl Change {
    pub(super) fn fail(self, error: RegistryError) {
        match self {
            Self::Add { reply, .. } => drop(reply.send(Err(error))),
            Self::Remove { reply, .. } => drop(reply.send(Err(error))),
            Self::Clean { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// The changes of the tasks of a process that wait to be written.
#[derive(Default)]
pub(super) struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    next: u64,
    changes: VecDeque<(u64, Change)>,
}

impl Queue {
    /// Returns a number by which the change can be [cancelled](Self::cancel).
    pub(super) fn push(&self, change: Change) -> u64 {
        let mut waiting = self.0.lock();
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.changes.push_back((number, change));
        number
    }

    /// Returns whether the change was still waiting.
    pub(super) fn cancel(&self, number: u64) -> bool {
        let mut waiting = self.0.lock();
        let before = waiting.changes.len();
        waiting.changes.retain(|(queued, _)| *queued != number);
        waiting.changes.len() < before
    }

    /// Removes the changes that are to be written together.
    pub(super) fn take(&self) -> Vec<Change> {
        let mut waiting = self.0.lock();
        let many = waiting.changes.len().min(MAX_TOGETHER);
        waiting.changes.drain(..many).map(|(_, change)| change).collect()
    }
}
