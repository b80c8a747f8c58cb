//! The answers of a channel, and the requests that are in work for them.

use std::time::Instant;

use tokio::task::AbortHandle;

use super::channel::Channel;
use super::clock::clock;
use super::flush_promise::FlushPromise;
use super::state::WorkId;
use crate::protocol::Frame;

impl Channel {
    /// Appends answers that are ready, all under one lock. They leave with the next flush, which is
    /// the driver's to see to: to be called in its turn.
    pub(crate) fn append_answers<'b>(
        &self,
        answers: impl Iterator<Item = Frame<'b>>,
        now: Instant,
    ) {
        self.update_in_turn(|state, _| {
            answers.for_each(|answer| state.append_answer(answer, now));
        });
    }

    /// Sends the answer of a request that was in work, unless the caller has cancelled it. With the
    /// flag for a stream it stays in work.
    pub(crate) async fn answer(&self, work: WorkId, answer: Frame<'_>) {
        let now = clock();
        let promised = self.update(|state, effects| state.answer(work, answer, now, effects));
        if promised {
            let promise = FlushPromise::new(self, now);
            yield_once().await;
            drop(promise);
        }
    }

    /// A request goes on in a task of its own. `None` once the channel is closed: nobody would hear
    /// the answer. Requests that want none are never refused. `bytes`: memory of the arguments.
    pub(crate) fn start_work(&self, id: u64, oneway: bool, bytes: usize) -> Option<WorkId> {
        self.update_in_turn(|state, _| state.start_work(id, oneway, bytes))
    }

    /// Requests in work whose callers wait for the answer.
    pub(crate) fn requests_in_work(&self) -> usize {
        self.look(|state| state.requests_in_work())
    }

    /// `abort` ends the task of a request when the caller cancels it or the connection ends.
    pub(crate) fn set_abort(&self, work: WorkId, abort: AbortHandle) {
        self.update(|state, effects| state.set_abort(work, abort, effects));
    }

    /// A request is no longer in work and gets no answer.
    pub(crate) fn finish_work(&self, work: WorkId) {
        self.update(|state, effects| state.finish_work(work, effects));
    }

    /// Sets the memory of a running request's arguments, in bytes; 0 once they are dropped.
    pub(crate) fn arguments_take(&self, work: WorkId, bytes: usize) {
        self.update(|state, _| state.set_arguments(work, bytes));
    }
}

/// Lets the other tasks that are ready run first.
async fn yield_once() {
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
