//! [`Slots`]: a slab of calls.

use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use crate::error::RpcError;
use crate::protocol::Header;

/// How a call ended. The body of an answer is in the buffer that the call was polled with.
#[derive(Debug)]
pub(crate) enum Completion {
    /// The peer answered. A large body is here.
    Answered(Header, Option<Bytes>),
    /// The deadline passed; `sent` says on which side of the wire the call was.
    TimedOut { sent: bool },
    /// It can't be answered any more: the connection ended, or the answer was unusable.
    Failed { error: RpcError, sent: bool },
}

/// What a call waits for.
pub(super) enum State {
    Free {
        next: Option<u32>,
    },
    /// Waits for room on the connection.
    Queued {
        waker: Waker,
        bytes: usize,
    },
    /// Has room reserved and was woken to use it.
    Admitted {
        bytes: usize,
    },
    /// Written; waits for the answer.
    Sent {
        waker: Waker,
    },
    /// Over; the caller was woken to take it.
    Ended(Completion),
}

/// One call, or room for one.
pub(super) struct Slot {
    generation: u32,
    pub(super) deadline: Instant,
    pub(super) state: State,
    /// Swapped with the caller's buffer when it takes the answer, so neither allocates.
    pub(super) body: Vec<u8>,
}

/// A slot does not keep a larger buffer than this.
const MAX_SLOT_BUFFER: usize = 4 << 10;

/// A slab. An id is a slot's index and its generation, so an id that is gone never names the slot's
/// next user.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Option<u32>,
    /// New slots begin with it: none of theirs was ever used with the same index.
    first_generation: u32,
}

impl Slots {
    pub(super) fn new() -> Self {
        // No call has the id 0, which means "no call" on the wire.
        Self { slots: Vec::new(), free: None, first_generation: 1 }
    }

    /// Slots, used and free ones.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// The slot at an index, and its id.
    pub(super) fn at(&self, at: usize) -> Option<(u64, &Slot)> {
        self.slots.get(at).map(|slot| (id(at, slot.generation), slot))
    }

    pub(super) fn get(&self, id: u64) -> Option<&Slot> {
        let (at, generation) = parts(id);
        self.slots.get(at).filter(|slot| slot.generation == generation)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Slot> {
        let (at, generation) = parts(id);
        self.slots.get_mut(at).filter(|slot| slot.generation == generation)
    }

    /// Uses a slot, and returns its id.
    #[inline]
    pub(super) fn occupy(&mut self, state: State, deadline: Instant) -> u64 {
        if let Some(at) = self.free
            && let Some(slot) = self.slots.get_mut(at as usize)
            && let State::Free { next } = slot.state
        {
            self.free = next;
            slot.state = state;
            slot.deadline = deadline;
            return id(at as usize, slot.generation);
        }
        let generation = self.first_generation;
        self.slots.push(Slot { generation, deadline, state, body: Vec::new() });
        id(self.slots.len() - 1, generation)
    }

    /// Frees a slot, and returns what was in it. Its id is gone.
    pub(super) fn release(&mut self, id: u64) -> Option<State> {
        let next = self.free;
        let slot = self.get_mut(id)?;
        if matches!(slot.state, State::Free { .. }) {
            return None;
        }
        let state = std::mem::replace(&mut slot.state, State::Free { next });
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        if slot.body.capacity() > MAX_SLOT_BUFFER {
            slot.body = Vec::new();
        }
        self.free = Some(parts(id).0 as u32);
        Some(state)
    }

    /// Gives back the memory, if all slots are free. Returns whether they were.
    pub(super) fn shrink(&mut self) -> bool {
        let all_free = self.slots.iter().all(|slot| matches!(slot.state, State::Free { .. }));
        let last = self.slots.iter().map(|slot| slot.generation).max();
        let Some(next) = last.and_then(|last| last.checked_add(1)).filter(|_| all_free) else {
            return false;
        };
        self.first_generation = next;
        self.slots = Vec::new();
        self.free = None;
        true
    }
}

fn id(at: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | at as u64
}

fn parts(id: u64) -> (usize, u32) {
    (id as u32 as usize, (id >> 32) as u32)
}
