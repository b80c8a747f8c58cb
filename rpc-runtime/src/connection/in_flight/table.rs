//! [`InFlight`]: the calls of one connection that wait.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use super::slots::{Completion, Slots, State};
use crate::error::RpcError;
use crate::protocol::Header;

/// What a dropped call left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// The peer works on it.
    Sent,
    /// The answer is there, and nobody took it.
    Answered,
    /// It was not sent, or was over already.
    Other,
}

/// Ids of calls that are gone may be this many in the queue, and as many as those of live ones.
const MAX_STALE: usize = 64;

pub(crate) struct InFlight {
    pub(super) slots: Slots,
    /// First come, first served; ids of dropped calls are skipped.
    pub(super) queue: VecDeque<u64>,
    pub(super) queued: usize,
    pub(super) admitted: usize,
    pub(super) admitted_bytes: usize,
    pub(super) sent: usize,
    /// Bytes of responses that callers have not taken.
    pub(super) held: usize,
    /// There was an answer.
    pub(super) answered: bool,
    /// How many may be sent at a time as far as this end goes,
    pub(super) max: usize,
    /// and how many with the peer's word.
    pub(super) limit: usize,
    /// No deadline is before this one.
    pub(super) earliest: Option<Instant>,
}

impl InFlight {
    /// At most `max` calls are sent and unanswered at a time.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            slots: Slots::new(),
            queue: VecDeque::new(),
            queued: 0,
            admitted: 0,
            admitted_bytes: 0,
            sent: 0,
            held: 0,
            answered: false,
            max,
            limit: max,
            earliest: None,
        }
    }

    /// Gives back the memory of calls that are over, if all are.
    pub(crate) fn shrink(&mut self) {
        if self.slots.shrink() {
            self.queue = VecDeque::new();
        }
    }

    /// The peer takes `requests` at a time, or has not said how many.
    pub(crate) fn greeted(&mut self, requests: Option<usize>) {
        self.limit = requests.map_or(self.max, |requests| requests.min(self.max));
    }

    /// Calls that are sent and unanswered.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Bytes of responses that callers have not taken.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// No call waits, neither for its turn nor for its answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.sent == 0 && self.queued == 0 && self.admitted == 0
    }

    /// Whether a new call may be sent at once, as far as other calls go.
    pub(crate) fn has_room(&self) -> bool {
        self.queued == 0 && self.sent + self.admitted < self.limit
    }

    /// No deadline is before this one.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// Enters a call that is sent now. Its waker is kept, so the first poll needs no second look.
    pub(crate) fn insert(&mut self, waker: Waker, deadline: Instant) -> u64 {
        self.sent += 1;
        self.enter(State::Sent { waker }, deadline)
    }

    /// Enters a call of `bytes` bytes that waits for its turn.
    pub(crate) fn enqueue(&mut self, waker: Waker, bytes: usize, deadline: Instant) -> u64 {
        self.queued += 1;
        let id = self.enter(State::Queued { waker, bytes }, deadline);
        self.queue.push_back(id);
        if self.queue.len() > 2 * self.queued + MAX_STALE {
            let slots = &self.slots;
            self.queue.retain(|id| {
                slots.get(*id).is_some_and(|slot| matches!(slot.state, State::Queued { .. }))
            });
        }
        id
    }

    /// Lets waiting calls send while there is room for them: `pending_bytes` are waiting to be
    /// written already, above `high` none is let through.
    pub(crate) fn admit(&mut self, pending_bytes: usize, high: usize, wakers: &mut Vec<Waker>) {
        while self.queued > 0
            && self.sent + self.admitted < self.limit
            && pending_bytes.saturating_add(self.admitted_bytes) <= high
        {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(id) else { continue };
            if let State::Queued { bytes, .. } = slot.state
                && let State::Queued { waker, .. } =
                    std::mem::replace(&mut slot.state, State::Admitted { bytes })
            {
                self.queued -= 1;
                self.admitted += 1;
                self.admitted_bytes += bytes;
                wakers.push(waker);
            }
        }
    }

    /// Whether the call was let through; if so it is sent now.
    pub(crate) fn start_if_admitted(&mut self, id: u64, waker: &Waker) -> bool {
        let Some(slot) = self.slots.get_mut(id) else { return false };
        let State::Admitted { bytes } = slot.state else { return false };
        slot.state = State::Sent { waker: waker.clone() };
        self.admitted -= 1;
        self.admitted_bytes -= bytes;
        self.sent += 1;
        true
    }

    /// Whether calls wait for their turn.
    #[inline]
    pub(in crate::connection) fn has_queued(&self) -> bool {
        self.queued > 0
    }

    /// Whether any call was answered.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered
    }

    /// The call was answered. Returns whom to wake; `None` if nobody waits for this answer. A body
    /// in `whole` is kept there, another one copied.
    pub(crate) fn answer(
        &mut self,
        header: Header,
        body: &[u8],
        whole: Option<Bytes>,
    ) -> Option<Waker> {
        let slot = self.slots.get_mut(header.id)?;
        if !matches!(slot.state, State::Sent { .. }) {
            return None;
        }
        let bytes = match &whole {
            Some(whole) => whole.len(),
            None => {
                slot.body.clear();
                slot.body.extend_from_slice(body);
                body.len()
            }
        };
        self.held += bytes;
        self.answered = true;
        self.end(header.id, |_| Completion::Answered(header, whole))
    }

    /// The call can't be answered any more.
    pub(crate) fn fail(&mut self, id: u64, error: RpcError) -> Option<Waker> {
        self.end(id, |sent| Completion::Failed { error, sent })
    }

    /// Ends a call that still waits. Returns whom to wake, if that was not done already.
    pub(super) fn end(
        &mut self,
        id: u64,
        completion: impl FnOnce(bool) -> Completion,
    ) -> Option<Waker> {
        let slot = self.slots.get_mut(id)?;
        let sent = match slot.state {
            State::Sent { .. } => true,
            State::Queued { .. } | State::Admitted { .. } => false,
            State::Free { .. } | State::Ended(_) => return None,
        };
        let state = std::mem::replace(&mut slot.state, State::Ended(completion(sent)));
        self.uncount(&state);
        match state {
            State::Sent { waker } | State::Queued { waker, .. } => Some(waker),
            State::Admitted { .. } | State::Free { .. } | State::Ended(_) => None,
        }
    }

    /// A call is no longer in `state`.
    fn uncount(&mut self, state: &State) {
        match state {
            State::Sent { .. } => self.sent -= 1,
            State::Queued { .. } => self.queued -= 1,
            State::Admitted { bytes } => {
                self.admitted -= 1;
                self.admitted_bytes -= bytes;
            }
            State::Free { .. } | State::Ended(_) => {}
        }
    }

    /// The outcome of the call, if there is one; the id is then gone. Otherwise `waker` is woken
    /// when there is. The body of an answer takes the place of what is in `buffer`.
    pub(crate) fn poll(
        &mut self,
        id: u64,
        waker: &Waker,
        buffer: &mut Vec<u8>,
    ) -> Option<Completion> {
        let slot = self.slots.get_mut(id)?;
        let taken = match &mut slot.state {
            State::Sent { waker: known } | State::Queued { waker: known, .. } => {
                known.clone_from(waker);
                return None;
            }
            State::Free { .. } | State::Admitted { .. } => return None,
            State::Ended(Completion::Answered(_, None)) => {
                std::mem::swap(&mut slot.body, buffer);
                buffer.len()
            }
            State::Ended(Completion::Answered(_, Some(whole))) => whole.len(),
            State::Ended(_) => 0,
        };
        self.held = self.held.saturating_sub(taken);
        match self.slots.release(id) {
            Some(State::Ended(completion)) => Some(completion),
            _ => None,
        }
    }

    /// The caller is gone.
    pub(crate) fn remove(&mut self, id: u64) -> Removed {
        if let Some(slot) = self.slots.get_mut(id)
            && let State::Ended(Completion::Answered(_, whole)) = &slot.state
        {
            let bytes = whole.as_ref().map_or(slot.body.len(), Bytes::len);
            self.held = self.held.saturating_sub(bytes);
        }
        let Some(state) = self.slots.release(id) else { return Removed::Other };
        self.uncount(&state);
        if self.queued == 0 {
            self.queue.clear();
        }
        match state {
            State::Sent { .. } => Removed::Sent,
            State::Ended(Completion::Answered(..)) => Removed::Answered,
            _ => Removed::Other,
        }
    }

    #[inline]
    fn enter(&mut self, state: State, deadline: Instant) -> u64 {
        if self.earliest.is_none_or(|earliest| deadline < earliest) {
            self.earliest = Some(deadline);
        }
        self.slots.occupy(state, deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::status::Status;

    fn table() -> (InFlight, Instant) {
        (InFlight::new(2), Instant::now())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_late_answer_never_reaches_the_slots_next_user() {
        let (mut table, now) = table();
        let old = table.insert(Waker::noop().clone(), now + SECOND);
        assert_eq!(table.remove(old), Removed::Sent);
        let new = table.insert(Waker::noop().clone(), now + SECOND);
        assert_eq!(old as u32, new as u32);
        let mut body = Vec::new();
        assert!(table.answer(Header::response(old, Status::Ok), b"old", None).is_none());
        assert!(table.poll(new, Waker::noop(), &mut body).is_none());
        assert!(table.answer(Header::response(new, Status::Ok), b"new", None).is_some());
        let outcome = table.poll(new, Waker::noop(), &mut body);
        assert!(matches!(outcome, Some(Completion::Answered(..))));
        assert_eq!(body, b"new");
        assert!(table.is_idle());
    }

    #[test]
    fn a_late_answer_reaches_nobody_after_the_table_was_emptied_either() {
        let (mut table, now) = table();
        let ids = [(); 3].map(|()| table.insert(Waker::noop().clone(), now + SECOND));
        table.shrink();
        assert_eq!(table.slots.len(), 3, "calls under way stay");
        for id in ids {
            table.remove(id);
        }
        table.shrink();
        assert_eq!((table.slots.capacity(), table.is_idle()), (0, true));
        for _ in 0..10 {
            let new = table.insert(Waker::noop().clone(), now + SECOND);
            assert!(!ids.contains(&new));
            assert!(ids.iter().all(|id| {
                table.answer(Header::response(*id, Status::Ok), b"late", None).is_none()
            }));
        }
        assert_eq!(table.sent(), 10);
    }

    #[test]
    fn an_expired_call_is_completed_and_its_late_answer_frees_nothing_twice() {
        let (mut table, now) = table();
        let id = table.insert(Waker::noop().clone(), now + SECOND);
        let mut wakers = Vec::new();
        table.expire(now + SECOND / 2, &mut wakers);
        assert!(wakers.is_empty());
        table.expire(now + SECOND, &mut wakers);
        assert_eq!((wakers.len(), table.sent()), (1, 0));
        assert!(table.answer(Header::response(id, Status::Ok), b"late", None).is_none());
        assert_eq!(table.sent(), 0);
        let outcome = table.poll(id, Waker::noop(), &mut Vec::new());
        assert!(matches!(outcome, Some(Completion::TimedOut { sent: true })));
        assert_eq!(table.earliest(), None);
    }

    #[test]
    fn calls_over_the_limit_wait_in_order_and_dropped_ones_are_skipped() {
        let (mut table, now) = table();
        let sent: Vec<_> =
            (0..2).map(|_| table.insert(Waker::noop().clone(), now + SECOND)).collect();
        assert!(!table.has_room());
        let queued: Vec<_> =
            (0..3).map(|_| table.enqueue(Waker::noop().clone(), 10, now + SECOND)).collect();
        let mut wakers = Vec::new();
        table.admit(0, 100, &mut wakers);
        assert!(wakers.is_empty(), "the limit is used up");

        assert_eq!(table.remove(queued[0]), Removed::Other);
        assert_eq!(table.remove(sent[0]), Removed::Sent);
        table.admit(101, 100, &mut wakers);
        assert!(wakers.is_empty(), "too many bytes are waiting");
        table.admit(0, 100, &mut wakers);
        assert_eq!(wakers.len(), 1);
        assert!(table.start_if_admitted(queued[1], Waker::noop()));
        assert!(!table.start_if_admitted(queued[2], Waker::noop()));
        assert!(!table.has_room(), "a newcomer must not overtake");
    }

    #[test]
    fn the_room_of_an_admitted_caller_that_went_away_is_free_again() {
        let (mut table, now) = table();
        table.insert(Waker::noop().clone(), now + SECOND);
        let sent = table.insert(Waker::noop().clone(), now + SECOND);
        let a = table.enqueue(Waker::noop().clone(), 60, now + SECOND);
        let b = table.enqueue(Waker::noop().clone(), 60, now + SECOND);
        table.remove(sent);
        let mut wakers = Vec::new();
        table.admit(0, 100, &mut wakers);
        table.remove(a);
        table.admit(0, 100, &mut wakers);
        assert!(table.start_if_admitted(b, Waker::noop()));
    }

    #[test]
    fn an_admitted_call_that_does_not_come_ends_at_its_deadline_and_its_room_is_free() {
        let (mut table, now) = table();
        let id = table.enqueue(Waker::noop().clone(), 60, now + SECOND);
        let mut wakers = Vec::new();
        table.admit(0, 100, &mut wakers);
        assert_eq!(wakers.len(), 1);
        table.expire(now + SECOND / 2, &mut wakers);
        assert_eq!(table.earliest(), Some(now + SECOND));
        table.expire(now + SECOND, &mut wakers);
        let outcome = table.poll(id, Waker::noop(), &mut Vec::new());
        assert!(matches!(outcome, Some(Completion::TimedOut { sent: false })));
        assert!(table.is_idle() && table.admitted_bytes == 0);
    }

    #[test]
    fn ids_of_calls_that_are_gone_do_not_pile_up_behind_one_that_waits() {
        let (mut table, now) = table();
        table.enqueue(Waker::noop().clone(), 1, now + SECOND);
        for _ in 0..10_000 {
            let id = table.enqueue(Waker::noop().clone(), 1, now + SECOND);
            table.remove(id);
        }
        assert!(table.queue.len() < 200, "{}", table.queue.len());
    }

    #[test]
    fn everything_that_waits_ends_when_the_connection_does() {
        let (mut table, now) = table();
        let sent = table.insert(Waker::noop().clone(), now + SECOND);
        let queued = table.enqueue(Waker::noop().clone(), 1, now + SECOND);
        let mut wakers = Vec::new();
        table.fail_all(&RpcError::unavailable("gone"), &mut wakers);
        assert_eq!(wakers.len(), 2);
        for (id, was_sent) in [(sent, true), (queued, false)] {
            let Some(Completion::Failed { error, sent }) =
                table.poll(id, Waker::noop(), &mut Vec::new())
            else {
                panic!()
            };
            assert!(error.is_unavailable());
            assert_eq!(sent, was_sent);
        }
        assert!(table.is_idle());
    }
}
