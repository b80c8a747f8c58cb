//! The window of a connection: a bound on the untaken items of all its streams.
//!
//! The window of a stream bounds the items that a slow receiver leaves untaken in that stream; this
//! one bounds those of all streams. Each end announces its window in the hello, and grants taken or
//! dropped bytes with the id 0. A peer that announces none has none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

const RELAXED: Ordering = Ordering::Relaxed;

/// The received bytes of all streams.
#[derive(Debug, Default)]
pub(in crate::connection) struct Intake {
    window: usize,
    /// Bytes of untaken items.
    queued: AtomicUsize,
    /// Bytes that were taken or dropped and are not yet granted again.
    done: AtomicUsize,
}

impl Intake {
    pub(super) fn new(window: usize) -> Self {
        Self { window, ..Self::default() }
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(RELAXED)
    }

    /// Adds an untaken item.
    pub(super) fn queue(&self, bytes: usize) {
        self.queued.fetch_add(bytes, RELAXED);
    }

    /// Removes items that were taken or dropped.
    pub(super) fn dequeue(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, RELAXED);
        self.skip(bytes);
    }

    /// Counts an item that is not kept.
    pub(super) fn skip(&self, bytes: usize) {
        self.done.fetch_add(bytes, RELAXED);
    }

    /// Whether enough has accumulated for a grant: half of the window without untaken items. So the
    /// sender always has credit while there is room, however much of the window slow streams use.
    pub(super) fn is_due(&self) -> bool {
        let done = self.done.load(RELAXED);
        done > 0 && done >= self.window.saturating_sub(self.queued()) / 2
    }

    /// Takes the bytes to be granted, once they are enough.
    pub(super) fn take_grant(&self) -> Option<u32> {
        if !self.is_due() {
            return None;
        }
        let all = self.done.swap(0, RELAXED);
        let grant = u32::try_from(all).unwrap_or(u32::MAX);
        let left = all - grant as usize;
        if left > 0 {
            self.done.fetch_add(left, RELAXED);
        }
        Some(grant).filter(|grant| *grant > 0)
    }
}

/// The credit for all streams that this end sends.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// The remaining credit; no limit while the peer has announced none.
    left: Option<i64>,
    /// Bytes sent before the peer announced its window.
    sent: i64,
    /// Streams that wait for credit, by the ids of their calls.
    waiting: HashMap<u64, Waker>,
}

impl Credit {
    /// Sets the window that the peer has announced; 0: none.
    pub(super) fn told(&mut self, window: u32) {
        if window > 0 && self.left.is_none() {
            self.left = Some(i64::from(window).saturating_sub(self.sent));
        }
    }

    /// Whether an item may be sent. One item may take the credit below 0.
    pub(super) fn is_left(&self) -> bool {
        self.left.is_none_or(|left| left > 0)
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        match &mut self.left {
            Some(left) => *left = left.saturating_sub(bytes),
            None => self.sent = self.sent.saturating_add(bytes),
        }
    }

    pub(super) fn grant(&mut self, bytes: u32, wakers: &mut Vec<Waker>) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_add(i64::from(bytes));
        }
        if self.is_left() {
            wakers.extend(self.waiting.drain().map(|(_, waker)| waker));
        }
    }

    /// Wakes `waker` when there is credit again.
    pub(super) fn wait(&mut self, id: u64, waker: &Waker) {
        self.waiting.insert(id, waker.clone());
    }

    /// Removes a stream that no longer waits.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiting.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_or_dropped_is_granted_again_once_it_is_half_of_what_is_free() {
        let intake = Intake::new(100);
        intake.queue(60);
        intake.dequeue(30);
        assert_eq!((intake.queued(), intake.take_grant()), (30, None));
        intake.skip(5);
        assert_eq!(intake.take_grant(), Some(35));
        assert_eq!(intake.take_grant(), None);
        intake.queue(60);
        intake.dequeue(10);
        assert_eq!(
            intake.take_grant(),
            Some(10),
            "little is left of the window, and it is not lost"
        );
        intake.dequeue(80);
        assert_eq!((intake.queued(), intake.take_grant()), (0, Some(80)));
    }

    #[test]
    fn a_peer_that_tells_no_window_has_none_and_one_that_does_is_kept_to_it() {
        let mut credit = Credit::default();
        credit.spend(1_000);
        assert!(credit.is_left());
        credit.told(0);
        assert!(credit.is_left());
        credit.told(1_100);
        assert!(credit.is_left());
        credit.spend(150);
        assert!(!credit.is_left());
        credit.wait(1, Waker::noop());
        credit.wait(2, Waker::noop());
        credit.wait(2, Waker::noop());
        credit.forget(1);
        let mut wakers = Vec::new();
        credit.grant(50, &mut wakers);
        assert!(!credit.is_left() && wakers.is_empty(), "one item had taken it below 0");
        credit.grant(1, &mut wakers);
        assert!(credit.is_left() && wakers.len() == 1);
        // Told once; a hello that comes again gives nothing.
        credit.spend(1);
        credit.told(1_000);
        assert!(!credit.is_left());
    }
}
