//! The ends of calls that get no answer.

use std::task::Waker;
use std::time::Instant;

use super::slots::{Completion, State};
use super::table::InFlight;
use crate::error::RpcError;

impl InFlight {
    /// Ends the calls whose deadlines have passed.
    pub(crate) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        let mut earliest = None;
        for at in 0..self.slots.len() {
            let Some((id, slot)) = self.slots.at(at) else { break };
            if matches!(slot.state, State::Free { .. } | State::Ended(_)) {
                continue;
            }
            if slot.deadline <= now {
                wakers.extend(self.end(id, |sent| Completion::TimedOut { sent }));
            } else if earliest.is_none_or(|earliest| slot.deadline < earliest) {
                earliest = Some(slot.deadline);
            }
        }
        self.earliest = earliest;
    }

    /// Ends the calls that wait for their turn.
    pub(crate) fn fail_queued(&mut self, error: &RpcError, wakers: &mut Vec<Waker>) {
        for id in std::mem::take(&mut self.queue) {
            if self.slots.get_mut(id).is_some_and(|slot| matches!(slot.state, State::Queued { .. }))
            {
                wakers.extend(self.fail(id, error.clone()));
            }
        }
    }

    /// Ends all calls.
    pub(crate) fn fail_all(&mut self, error: &RpcError, wakers: &mut Vec<Waker>) {
        for at in 0..self.slots.len() {
            let Some((id, _)) = self.slots.at(at) else { break };
            wakers.extend(self.fail(id, error.clone()));
        }
        self.queue.clear();
        self.earliest = None;
    }
}
