//! The receiving end of a stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::super::Channel;
use super::{WINDOW, cost, locked};
use crate::error::RpcError;
use crate::protocol::{Body, DecodeLimits, Flags, Frame, Header, Kind};
use crate::status::Status;

/// The receiving end, filled by the driver.
#[derive(Default)]
pub(super) struct Incoming(Mutex<Received>);

#[derive(Default)]
struct Received {
    items: VecDeque<Bytes>,
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
    /// Whether there is an [`IncomingStream`] for it.
    pub(super) fn is_taken(&self) -> bool {
        locked(&self.0).taken
    }

    /// Returns whom to wake.
    pub(super) fn push(&self, frame: &Frame<'_>) -> Result<Option<Waker>, RpcError> {
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
        let mut received = locked(&self.0);
        if received.end.is_some() {
            return Ok(None);
        }
        if received.owed >= WINDOW {
            return Err(RpcError::protocol("the peer sent more items than it was granted"));
        }
        received.owed = received.owed.saturating_add(cost(item.len()));
        received.items.push_back(Bytes::copy_from_slice(item));
        Ok(received.waker.take())
    }

    /// Nothing more will come. The first reason counts. Returns whom to wake.
    pub(super) fn end(&self, end: Result<(), RpcError>) -> Option<Waker> {
        let mut received = locked(&self.0);
        received.end.get_or_insert(end);
        received.waker.take()
    }
}

/// The items of a stream that the peer sends. Dropping it tells the peer to stop.
pub(crate) struct IncomingStream {
    channel: Arc<Channel>,
    id: u64,
    incoming: Arc<Incoming>,
    ended: bool,
}

impl IncomingStream {
    /// What decoding an item may cost.
    pub(crate) fn limits(&self) -> DecodeLimits {
        self.channel.settings().decode
    }

    /// The next item, still encoded; `None` at the end.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        let mut received = locked(&self.incoming.0);
        if let Some(item) = received.items.pop_front() {
            received.consumed = received.consumed.saturating_add(cost(item.len()));
            let grant = if received.consumed >= WINDOW / 2 && received.end.is_none() {
                received.owed = received.owed.saturating_sub(received.consumed);
                std::mem::take(&mut received.consumed)
            } else {
                0
            };
            drop(received);
            if let Ok(grant @ 1..) = u32::try_from(grant) {
                let header = Header { id: self.id, ..Header::new(Kind::StreamCredit) };
                self.channel.send_now(Frame::new(header, &grant.to_be_bytes()));
            }
            return Poll::Ready(Some(Ok(item)));
        }
        match &received.end {
            Some(end) if !self.ended => {
                self.ended = true;
                Poll::Ready(
                    end.clone().err().map(|error| Err(error.with_peer(self.channel.peer()))),
                )
            }
            Some(_) => Poll::Ready(None),
            None => {
                received.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for IncomingStream {
    fn drop(&mut self) {
        if locked(&self.incoming.0).end.is_some() {
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
    /// The stream whose items follow a request or an answer, if its header says that there is one.
    pub(crate) fn incoming_stream(self: &Arc<Self>, header: &Header) -> Option<IncomingStream> {
        match header.flags.contains(Flags::STREAM) {
            true => self.take_incoming(header.id),
            false => None,
        }
    }

    pub(in crate::channel) fn take_incoming(self: &Arc<Self>, id: u64) -> Option<IncomingStream> {
        let (incoming, kick) = {
            let mut core = self.lock();
            let incoming = Arc::clone(core.streams.incoming.get(&id)?);
            let mut received = locked(&incoming.0);
            received.taken = true;
            if received.end.is_some() {
                core.streams.incoming.remove(&id);
            }
            drop(received);
            // The connection may be waiting for its last stream.
            (incoming, core.driver_if_needed())
        };
        kick.into_iter().for_each(Waker::wake);
        Some(IncomingStream { channel: Arc::clone(self), id, incoming, ended: false })
    }
}
