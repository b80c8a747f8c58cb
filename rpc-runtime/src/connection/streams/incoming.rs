//! [`Incoming`]: the items of a stream that the peer sends, until they are taken.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::cost::{WINDOW, cost, locked};
use super::window::Intake;
use crate::error::RpcError;
use crate::protocol::{Body, Frame};
use crate::status::Status;

/// The receiving end of a stream. The driver fills it.
pub(in crate::connection) struct Incoming {
    received: Mutex<Received>,
    intake: Arc<Intake>,
}

/// The outcome of an item.
pub(super) enum Pushed {
    /// The tasks to wake.
    Queued(Option<Waker>),
    /// The stream has ended.
    Late,
}

/// What a receiver gets.
pub(in crate::connection) enum Taken {
    Item {
        item: Bytes,
        /// Credit that the sender is to be granted; 0: none yet.
        grant: u32,
    },
    End(Result<(), RpcError>),
}

#[derive(Default)]
struct Received {
    items: VecDeque<Bytes>,
    /// Their size.
    queued: usize,
    /// Bytes received and not yet granted again.
    owed: usize,
    /// Bytes consumed and not yet granted again.
    consumed: usize,
    end: Option<Result<(), RpcError>>,
    /// There is a receiver.
    taken: bool,
    waker: Option<Waker>,
}

impl Incoming {
    pub(super) fn new(intake: Arc<Intake>) -> Self {
        Self { received: Mutex::default(), intake }
    }

    /// Whether there is a receiver.
    pub(super) fn is_taken(&self) -> bool {
        locked(&self.received).taken
    }

    /// The size of untaken items.
    pub(super) fn queued(&self) -> usize {
        locked(&self.received).queued
    }

    /// Drops untaken items.
    pub(in crate::connection) fn drop_items(&self) {
        let mut received = locked(&self.received);
        received.items = VecDeque::new();
        self.intake.dequeue(std::mem::take(&mut received.queued));
    }

    /// `whole`: the payload, if it can be kept without a copy.
    pub(super) fn push(&self, frame: &Frame<'_>, whole: Option<Bytes>) -> Result<Pushed, RpcError> {
        if let Body::TooLarge { limit } = frame.body {
            return Err(RpcError::new(
                Status::TooLarge,
                format!("an item has {} bytes, the limit is {limit} bytes", frame.header.length),
            ));
        }
        if !frame.header.flags.are_understood() {
            let flags = frame.header.flags;
            let message = format!("an item has {flags:?}, not all understood here");
            return Err(RpcError::protocol(message));
        }
        let item = frame.body.as_slice();
        let mut received = locked(&self.received);
        if received.end.is_some() {
            return Ok(Pushed::Late);
        }
        if received.owed >= WINDOW {
            return Err(RpcError::protocol("the peer sent more items than it was granted"));
        }
        let cost = cost(item.len());
        received.owed = received.owed.saturating_add(cost);
        received.queued = received.queued.saturating_add(cost);
        self.intake.queue(cost);
        received.items.push_back(whole.unwrap_or_else(|| Bytes::copy_from_slice(item)));
        Ok(Pushed::Queued(received.waker.take()))
    }

    /// Somebody takes the items from now on. Returns whether the stream has ended.
    pub(super) fn set_taken(&self) -> bool {
        let mut received = locked(&self.received);
        received.taken = true;
        received.end.is_some()
    }

    /// Whether nothing more will come.
    pub(in crate::connection) fn has_ended(&self) -> bool {
        locked(&self.received).end.is_some()
    }

    /// What there is for the receiver.
    pub(in crate::connection) fn poll_take(&self, waker: &Waker) -> Poll<Taken> {
        let mut received = locked(&self.received);
        if let Some(item) = received.items.pop_front() {
            let cost = cost(item.len());
            received.queued = received.queued.saturating_sub(cost);
            received.consumed = received.consumed.saturating_add(cost);
            let grant = if received.consumed >= WINDOW / 2 && received.end.is_none() {
                received.owed = received.owed.saturating_sub(received.consumed);
                std::mem::take(&mut received.consumed)
            } else {
                0
            };
            drop(received);
            self.intake.dequeue(cost);
            return Poll::Ready(Taken::Item { item, grant: u32::try_from(grant).unwrap_or(0) });
        }
        match &received.end {
            Some(end) => Poll::Ready(Taken::End(end.clone())),
            None => {
                received.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// Whether enough of the shared window was consumed for a grant.
    pub(in crate::connection) fn is_grant_due(&self) -> bool {
        self.intake.is_due()
    }

    /// Nothing more will come. The first reason counts. Returns whom to wake.
    pub(super) fn end(&self, end: Result<(), RpcError>) -> Option<Waker> {
        let mut received = locked(&self.received);
        received.end.get_or_insert(end);
        received.waker.take()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.drop_items();
    }
}
