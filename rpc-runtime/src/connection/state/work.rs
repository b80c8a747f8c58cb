//! The requests of a connection that are in work in tasks of their own.

use std::collections::HashMap;

use tokio::task::AbortHandle;

/// Stands for a request in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkId {
    /// Tells requests apart even when a peer uses an id twice.
    serial: u64,
    /// The request's id; `None` when it wants no answer.
    id: Option<u64>,
}

struct Running {
    id: Option<u64>,
    abort: Option<AbortHandle>,
    /// Somebody waits for the answer.
    wanted: bool,
    /// Memory of its arguments.
    bytes: usize,
}

/// Counts what runs, until it has ended: a request that was cancelled still counts, or cancelling
/// would be a way around the limit.
#[derive(Default)]
pub(in crate::connection) struct Work {
    next_serial: u64,
    running: HashMap<u64, Running>,
    /// Requests that can be cancelled, by id.
    by_id: HashMap<u64, u64>,
    resume_below: usize,
    /// Memory of all arguments.
    bytes: usize,
}

impl Work {
    pub(in crate::connection) fn len(&self) -> usize {
        self.running.len()
    }

    /// Memory of the arguments of running requests.
    #[inline]
    pub(in crate::connection) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets the memory of a request's arguments.
    pub(in crate::connection) fn set_bytes(&mut self, work_id: WorkId, bytes: usize) {
        if let Some(running) = self.running.get_mut(&work_id.serial) {
            let before = std::mem::replace(&mut running.bytes, bytes);
            self.bytes = self.bytes.saturating_add(bytes).saturating_sub(before);
        }
    }

    /// Those whose answers somebody waits for.
    pub(in crate::connection) fn wanted(&self) -> usize {
        self.running.values().filter(|running| running.wanted).count()
    }

    /// Requests that were cancelled and have not ended yet.
    pub(in crate::connection) fn cancelled(&self) -> usize {
        self.running.values().filter(|running| running.id.is_some() && !running.wanted).count()
    }

    pub(in crate::connection) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Below this many, reading goes on that had stopped at the limit; 0 while it has not.
    pub(in crate::connection) fn resume_below(&self) -> usize {
        self.resume_below
    }

    pub(in crate::connection) fn set_resume_below(&mut self, count: usize) {
        self.resume_below = count;
    }

    /// `bytes`: memory of the arguments.
    pub(in crate::connection) fn start(&mut self, id: u64, oneway: bool, bytes: usize) -> WorkId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let id = (!oneway).then_some(id);
        self.running.insert(serial, Running { id, abort: None, wanted: !oneway, bytes });
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(id) = id {
            self.by_id.insert(id, serial);
        }
        WorkId { serial, id }
    }

    /// Keeps `abort`, or gives it back when the request was cancelled in the meantime.
    pub(in crate::connection) fn set_abort(
        &mut self,
        work_id: WorkId,
        abort: AbortHandle,
    ) -> Option<AbortHandle> {
        match self.running.get_mut(&work_id.serial) {
            Some(running) if running.wanted || running.id.is_none() => {
                running.abort = Some(abort);
                None
            }
            _ => Some(abort),
        }
    }

    /// Whether the answer is still wanted.
    pub(in crate::connection) fn is_wanted(&self, work_id: WorkId) -> bool {
        self.running.get(&work_id.serial).is_some_and(|running| running.wanted)
    }

    /// It has ended. Says whether the answer is still wanted; `None` if it had ended before.
    pub(in crate::connection) fn finish(&mut self, work_id: WorkId) -> Option<bool> {
        if let Some(id) = work_id.id
            && self.by_id.get(&id) == Some(&work_id.serial)
        {
            self.by_id.remove(&id);
        }
        let running = self.running.remove(&work_id.serial)?;
        self.bytes = self.bytes.saturating_sub(running.bytes);
        Some(running.wanted)
    }

    /// Nobody hears the answers of what is in work now.
    pub(in crate::connection) fn cancel_all(&mut self, aborts: &mut Vec<AbortHandle>) {
        // Not by id: a peer may have used one for many.
        self.by_id.clear();
        for running in self.running.values_mut().filter(|running| running.id.is_some()) {
            running.wanted = false;
            aborts.extend(running.abort.take());
        }
    }

    /// The caller no longer waits for `id`.
    pub(in crate::connection) fn cancel(&mut self, id: u64, aborts: &mut Vec<AbortHandle>) {
        let serial = self.by_id.remove(&id);
        let Some(running) = serial.and_then(|serial| self.running.get_mut(&serial)) else { return };
        running.wanted = false;
        aborts.extend(running.abort.take());
    }

    /// The connection has ended. Requests without a response continue.
    ///
    /// All count until they have ended: a thread still has its request's arguments after an abort.
    pub(in crate::connection) fn end(&mut self, aborts: &mut Vec<AbortHandle>) {
        self.cancel_all(aborts);
    }
}
