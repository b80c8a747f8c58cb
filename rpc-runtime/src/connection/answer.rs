//! The answers of a channel, and the requests that are in work for them.

use std::task::Waker;
use std::time::Instant;

use rpc_registry::limited;
use tokio::task::AbortHandle;

use super::{Channel, Core, FlushDuty, State, WorkId, clock, wake_all};
use crate::budget::FREE;
use crate::protocol::{Body, Flags, Frame, error_answer};

impl Channel {
    /// Appends answers that are ready, all under one lock. They leave with the next flush, which is
    /// the caller's to see to.
    pub(crate) fn append_answers<'b>(
        &self,
        answers: impl Iterator<Item = Frame<'b>>,
        now: Instant,
    ) {
        let mut wakers = Vec::new();
        let mut core = self.lock();
        for answer in answers {
            core.answer(answer, now);
        }
        if core.pipeline.pending_bytes() > FREE {
            core.settle(&mut wakers);
        }
        drop(core);
        wake_all(wakers);
    }

    /// Sends the answer of a request that was in work, unless the caller has cancelled it. With the
    /// flag for a stream it stays in work.
    pub(crate) async fn answer(&self, work_id: WorkId, answer: Frame<'_>) {
        let now = clock();
        let mut wakers = Vec::new();
        let (duty, wait) = {
            let mut core = self.lock();
            let wanted = match answer.header.flags.contains(Flags::STREAM) {
                true => core.work.is_wanted(work_id),
                false => core.finish(work_id, &mut wakers),
            };
            if wanted {
                core.answer(answer, now);
                core.settle(&mut wakers);
            }
            let others = core.work.len();
            let enough = core.has_gathered(self.settings.flush_after(others, core.split));
            (wanted && (core.claim_duty() || enough), others > 0 && !enough)
        };
        wake_all(wakers);
        if duty {
            let duty = FlushDuty(self, now);
            if wait {
                // Other answers are on their way: let them gather and leave in one write.
                yield_once().await;
            }
            drop(duty);
        }
    }

    /// A request goes on in a task of its own. `None` once the channel is closed: nobody would hear
    /// the answer. Requests that want none are never refused. `bytes`: memory of the arguments.
    pub(crate) fn start_work(&self, id: u64, oneway: bool, bytes: usize) -> Option<WorkId> {
        let mut wakers = Vec::new();
        let mut core = self.lock();
        if !oneway && matches!(core.state, State::Closed(_)) {
            return None;
        }
        let work_id = core.work.start(id, oneway, bytes);
        core.settle(&mut wakers);
        drop(core);
        wake_all(wakers);
        Some(work_id)
    }

    /// Requests in work whose callers wait for the answer.
    pub(crate) fn requests_in_work(&self) -> usize {
        self.lock().work.wanted()
    }

    /// `abort` ends the task of a request when the caller cancels it or the connection ends.
    pub(crate) fn set_abort(&self, work_id: WorkId, abort: AbortHandle) {
        let late = self.lock().work.set_abort(work_id, abort);
        late.into_iter().for_each(|abort| abort.abort());
    }

    /// A request is no longer in work and gets no answer.
    pub(crate) fn finish_work(&self, work_id: WorkId) {
        let mut wakers = Vec::new();
        self.lock().finish(work_id, &mut wakers);
        wake_all(wakers);
    }
}

impl Core {
    /// Writes an answer; one that can't be written becomes an error answer that can.
    fn answer(&mut self, answer: Frame<'_>, now: Instant) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        let id = answer.header.id;
        let Err(error) = self.write(answer, now) else { return };
        let (header, body) = error_answer(id, &error.maybe_executed());
        let frame = Frame { header, body: Body::Owned(body.into()) };
        if let Err(error) = self.write(frame, now) {
            limited!(warn, %error, "an answer could not be written");
        }
    }

    /// Whether the answer is still wanted. The driver is woken if it waited for room.
    fn finish(&mut self, work_id: WorkId, wakers: &mut Vec<Waker>) -> bool {
        let was_full = self.work.len() >= self.work.resume_below();
        let Some(wanted) = self.work.finish(work_id) else { return false };
        self.settle(wakers);
        let resumes = was_full && self.work.len() < self.work.resume_below();
        if resumes || self.work.is_empty() {
            wakers.extend(self.driver.take());
        }
        wanted
    }
}

/// Lets the other tasks that are ready run first.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
