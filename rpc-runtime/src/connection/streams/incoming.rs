//! The receiving end of a stream.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::super::Channel;
use super::window::Intake;
use super::{WINDOW, cost, locked};
use crate::call::Items;
use crate::error::RpcError;
use crate::protocol::{Body, DecodeLimits, Flags, Frame, Header, Kind};
use crate::status::Status;

/// The receiving end, filled by the driver.
pub(super) struct Incoming {
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
    /// There is an [`IncomingStream`] for it.
    taken: bool,
    waker: Option<Waker>,
}

impl Incoming {
    pub(super) fn new(intake: Arc<Intake>) -> Self {
        Self { received: Mutex::default(), intake }
    }

    /// Whether there is an [`IncomingStream`] for it.
    pub(super) fn is_taken(&self) -> bool {
        locked(&self.received).taken
    }

    /// The size of untaken items.
    pub(super) fn queued(&self) -> usize {
        locked(&self.received).queued
    }

    /// Drops untaken items.
    pub(super) fn drop_items(&self) {
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

/// The items of a stream that the peer sends. Dropping it and its clones tells the peer to stop.
///
/// A clone is for arguments that are decoded a second time. Only one of them is to be polled.
#[derive(Clone)]
pub(crate) struct IncomingStream {
    open: Arc<Open>,
    ended: bool,
}

struct Open {
    channel: Arc<Channel>,
    id: u64,
    incoming: Arc<Incoming>,
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingStream").field("id", &self.open.id).finish_non_exhaustive()
    }
}

impl Items for IncomingStream {
    fn limits(&self) -> DecodeLimits {
        self.open.channel.settings().decode
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        let Open { channel, id, incoming } = &*self.open;
        let mut received = locked(&incoming.received);
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
            incoming.intake.dequeue(cost);
            channel.item_taken(&incoming.intake);
            if let Ok(grant @ 1..) = u32::try_from(grant) {
                let header = Header { id: *id, ..Header::new(Kind::StreamCredit) };
                channel.send_now(Frame::new(header, &grant.to_be_bytes()));
            }
            return Poll::Ready(Some(Ok(item)));
        }
        match &received.end {
            Some(end) if !self.ended => {
                self.ended = true;
                Poll::Ready(end.clone().err().map(|error| Err(error.with_peer(channel.peer()))))
            }
            Some(_) => Poll::Ready(None),
            None => {
                received.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let ended = locked(&self.incoming.received).end.is_some();
        self.incoming.drop_items();
        self.channel.item_taken(&self.incoming.intake);
        if ended {
            return;
        }
        let open = {
            let mut core = self.channel.lock();
            let ours = core.streams.incoming.get(&self.id);
            let ours = ours.is_some_and(|incoming| Arc::ptr_eq(incoming, &self.incoming));
            if ours {
                core.streams.incoming.remove(&self.id);
            }
            ours
        };
        if open {
            let header = Header { id: self.id, ..Header::new(Kind::Cancel) };
            self.channel.send_now(Frame::bare(header));
        }
    }
}

impl Channel {
    /// Updates credit after an item was taken from a stream.
    fn item_taken(&self, intake: &Intake) {
        if self.account().is_charged() {
            self.settle();
        }
        if intake.is_due() {
            self.grant_window();
        }
    }

    /// Grants the peer shared credit, if enough has accumulated.
    fn grant_window(&self) {
        let grant = self.lock().take_grant();
        if let Some((header, credit)) = grant {
            self.send_now(Frame::new(header, &credit));
        }
    }

    /// The stream whose items follow a request or an answer, if its header says that there is one.
    pub(crate) fn incoming_stream(self: &Arc<Self>, header: &Header) -> Option<IncomingStream> {
        match header.flags.contains(Flags::STREAM) {
            true => self.take_incoming(header.id),
            false => None,
        }
    }

    pub(in crate::connection) fn take_incoming(
        self: &Arc<Self>,
        id: u64,
    ) -> Option<IncomingStream> {
        let (incoming, kick) = {
            let mut core = self.lock();
            let incoming = Arc::clone(core.streams.incoming.get(&id)?);
            let mut received = locked(&incoming.received);
            received.taken = true;
            if received.end.is_some() {
                core.streams.incoming.remove(&id);
            }
            drop(received);
            // The connection may be waiting for its last stream.
            (incoming, core.driver_if_needed())
        };
        kick.into_iter().for_each(Waker::wake);
        let open = Open { channel: Arc::clone(self), id, incoming };
        Some(IncomingStream { open: Arc::new(open), ended: false })
    }
}
