//! The peer's requests in work, and their answers.

use std::time::Instant;

use rpc_registry::limited;
use tokio::task::AbortHandle;

use super::{ConnectionState, Effects, WorkId};
use crate::protocol::{Body, Flags, Frame, error_answer};

impl ConnectionState {
    /// A request goes on in a task of its own. `None` once the channel is closed: nobody would hear
    /// the answer. Requests that want none are never refused. `bytes`: memory of the arguments.
    pub(in crate::connection) fn start_work(
        &mut self,
        id: u64,
        oneway: bool,
        bytes: usize,
    ) -> Option<WorkId> {
        let refused = !oneway && self.lifecycle.is_closed();
        (!refused).then(|| self.work.start(id, oneway, bytes))
    }

    /// Sets the task of a request, which is aborted when the caller cancels it or the connection
    /// ends.
    pub(in crate::connection) fn set_abort(
        &mut self,
        work: WorkId,
        abort: AbortHandle,
        effects: &mut Effects,
    ) {
        effects.aborts.extend(self.work.set_abort(work, abort));
    }

    /// Sets the memory of a running request's arguments, in bytes.
    pub(in crate::connection) fn set_arguments(&mut self, work: WorkId, bytes: usize) {
        self.work.set_bytes(work, bytes);
    }

    /// A request is no longer in work. Returns whether the answer is still wanted.
    pub(in crate::connection) fn finish_work(
        &mut self,
        work: WorkId,
        effects: &mut Effects,
    ) -> bool {
        let was_full = self.work.len() >= self.work.resume_below();
        let Some(wanted) = self.work.finish(work) else { return false };
        let resumes = was_full && self.work.len() < self.work.resume_below();
        if resumes || self.work.is_empty() {
            self.wake_driver(effects);
        }
        wanted
    }

    /// Appends an answer in the driver's turn, which flushes.
    #[inline]
    pub(in crate::connection) fn append_answer(&mut self, answer: Frame<'_>, now: Instant) {
        if self.lifecycle.is_closed() {
            return;
        }
        let id = answer.header.id;
        if let Err(error) = self.write(answer, now) {
            // One that can't be written becomes an error answer that can.
            let (header, body) = error_answer(id, &error.maybe_executed());
            let frame = Frame { header, body: Body::Owned(body.into()) };
            if let Err(error) = self.write(frame, now) {
                limited!(warn, %error, "an answer could not be written");
            }
        }
    }

    /// Appends the answer of a request that was in work, unless the caller has cancelled it. With
    /// the flag for a stream it stays in work.
    ///
    /// Returns whether the caller has promised to flush, after the others had their turn.
    pub(in crate::connection) fn answer(
        &mut self,
        work: WorkId,
        answer: Frame<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let wanted = match answer.header.flags.contains(Flags::STREAM) {
            true => self.work.is_wanted(work),
            false => self.finish_work(work, effects),
        };
        if !wanted {
            return false;
        }
        self.append_answer(answer, now);
        let others = self.work.len();
        let enough = self.settings.flush_after(others, self.flushing.split);
        let enough = self.flushing.has_gathered(enough);
        let claimed = self.flushing.duty.claim();
        // Other answers are on their way: let them gather and leave in one write.
        let promised = claimed && others > 0 && !enough;
        if !promised && (claimed || enough) {
            effects.flush = Some(now);
        }
        promised
    }

    /// Nobody waits for the answers of what is in work.
    pub(in crate::connection) fn cancel_work(&mut self, effects: &mut Effects) {
        self.work.cancel_all(&mut effects.aborts);
    }
}
