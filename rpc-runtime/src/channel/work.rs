//! The requests of a connection that are in work in tasks of their own.

use std::collections::HashMap;

use tokio::task::AbortHandle;

/// Stands for a request in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Tells requests apart even when a peer uses an id twice.
    serial: u64,
    /// The request's id; `None` when it wants no answer.
    id: Option<u64>,
}

struct Running {
    id: Option<u64>,
    abort: Option<AbortHandle>,
}

#[derive(Default)]
pub(super) struct Work {
    next_serial: u64,
    running: HashMap<u64, Running>,
    /// Requests that can be cancelled, by id.
    by_id: HashMap<u64, u64>,
    resume_below: usize,
}

impl Work {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Below this many, reading goes on that had stopped at the limit; 0 while it has not.
    pub(super) fn resume_below(&self) -> usize {
        self.resume_below
    }

    pub(super) fn set_resume_below(&mut self, count: usize) {
        self.resume_below = count;
    }

    pub(super) fn start(&mut self, id: u64, oneway: bool) -> Ticket {
        let serial = self.next_serial;
        self.next_serial += 1;
        let id = (!oneway).then_some(id);
        self.running.insert(serial, Running { id, abort: None });
        if let Some(id) = id {
            self.by_id.insert(id, serial);
        }
        Ticket { serial, id }
    }

    /// Keeps `abort`, or gives it back when the request was cancelled in the meantime.
    pub(super) fn set_abort(&mut self, ticket: Ticket, abort: AbortHandle) -> Option<AbortHandle> {
        match self.running.get_mut(&ticket.serial) {
            Some(running) => {
                running.abort = Some(abort);
                None
            }
            None => Some(abort),
        }
    }

    pub(super) fn is_running(&self, ticket: Ticket) -> bool {
        self.running.contains_key(&ticket.serial)
    }

    /// Whether it was still in work, so that its answer is wanted.
    pub(super) fn finish(&mut self, ticket: Ticket) -> bool {
        let found = self.running.remove(&ticket.serial).is_some();
        if let Some(id) = ticket.id
            && self.by_id.get(&id) == Some(&ticket.serial)
        {
            self.by_id.remove(&id);
        }
        found && ticket.id.is_some()
    }

    /// The caller no longer waits for `id`.
    pub(super) fn cancel(&mut self, id: u64) {
        let Some(serial) = self.by_id.remove(&id) else { return };
        if let Some(abort) = self.running.remove(&serial).and_then(|running| running.abort) {
            abort.abort();
        }
    }

    /// Nobody hears the answers any more. Requests that want none go on.
    pub(super) fn abort_all(self) {
        for running in self.running.into_values().filter(|running| running.id.is_some()) {
            running.abort.into_iter().for_each(|abort| abort.abort());
        }
    }
}
