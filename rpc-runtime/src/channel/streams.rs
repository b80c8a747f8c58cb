//! The streams of a channel: items that follow a request or an answer.
//!
//! A stream belongs to a call and is named by the call's id; its direction is that of its items. The
//! receiver grants credit in bytes, so a slow one slows its sender down and neither other calls nor
//! memory suffer. Sender and receiver start with [`WINDOW`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::{Channel, Core, State, Ticket, clock, wake_all};
use crate::buffer;
use crate::error::RpcError;
use crate::protocol::{Body, Flags, Frame, HEADER_LEN, Header, Kind};
use crate::status::Status;

/// Bytes that may be under way unasked. A sender may send while it has any credit left, so one item
/// of the payload limit can be on top.
pub(crate) const WINDOW: usize = 256 << 10;

/// Items that gather before they leave together.
const MAX_GATHERED: usize = 64;

/// What an item costs: its header, too, so that empty ones are not for free.
fn cost(item: usize) -> usize {
    item.saturating_add(HEADER_LEN)
}

/// The items of a stream are of no more use.
pub(super) struct Unwanted;

/// The streams of one channel by the ids of their calls.
#[derive(Default)]
pub(super) struct Streams {
    incoming: HashMap<u64, Arc<Incoming>>,
    outgoing: HashMap<u64, Arc<Outgoing>>,
}

impl Streams {
    /// Items of call `id` may arrive from now on.
    pub(super) fn open_incoming(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        if let Some(replaced) = self.incoming.insert(id, Arc::default()) {
            let error = RpcError::protocol("the peer used the id of an open stream again");
            wakers.extend(replaced.end(Err(error)));
        }
    }

    /// Whether no items may be sent or received.
    pub(super) fn is_empty(&self) -> bool {
        self.incoming.is_empty() && self.outgoing.is_empty()
    }

    /// A frame of a stream arrived. Frames of streams that are gone are late, not wrong.
    ///
    /// # Errors
    /// An item that cannot be taken. It has ended the stream; the sender is to be told.
    pub(super) fn read(
        &mut self,
        frame: &Frame<'_>,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), Unwanted> {
        let id = frame.header.id;
        match frame.header.kind {
            Kind::StreamData => {
                let Some(incoming) = self.incoming.get(&id) else { return Ok(()) };
                match incoming.push(frame) {
                    Ok(waker) => wakers.extend(waker),
                    Err(error) => {
                        self.end_incoming(id, Err(error), wakers);
                        return Err(Unwanted);
                    }
                }
            }
            Kind::StreamEnd => {
                let end = match frame.header.status {
                    0 => Ok(()),
                    _ => Err(super::read_error(&frame.header, frame.body.as_slice())),
                };
                self.end_incoming(id, end, wakers);
            }
            Kind::StreamCredit => {
                if let (Some(outgoing), Some(credit)) =
                    (self.outgoing.get(&id), frame.body.as_slice().first_chunk::<4>())
                {
                    wakers.extend(outgoing.grant(u32::from_be_bytes(*credit)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Nothing more comes for call `id`. What came is kept until somebody has taken the stream.
    fn end_incoming(&mut self, id: u64, end: Result<(), RpcError>, wakers: &mut Vec<Waker>) {
        let Some(incoming) = self.incoming.get(&id) else { return };
        wakers.extend(incoming.end(end));
        if locked(&incoming.0).taken {
            self.incoming.remove(&id);
        }
    }

    /// The request `id` was taken back before it was begun, so nobody will take its stream.
    pub(super) fn forget_incoming(&mut self, id: u64) {
        self.incoming.remove(&id);
    }

    /// The peer no longer wants the items of call `id`.
    pub(super) fn cancel_outgoing(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        if let Some(outgoing) = self.outgoing.remove(&id) {
            wakers.extend(outgoing.stop(receiver_gone()));
        }
    }

    /// Whether the stream was still open.
    fn forget_outgoing(&mut self, id: u64, outgoing: &Arc<Outgoing>) -> bool {
        let open = self.outgoing.get(&id).is_some_and(|known| Arc::ptr_eq(known, outgoing));
        if open {
            self.outgoing.remove(&id);
        }
        open
    }

    pub(super) fn fail_all(&mut self, cause: &RpcError, wakers: &mut Vec<Waker>) {
        // What came is kept until somebody has taken the stream: its call may just be answered.
        self.incoming.retain(|_, incoming| {
            wakers.extend(incoming.end(Err(cause.clone())));
            !locked(&incoming.0).taken
        });
        for (_, outgoing) in self.outgoing.drain() {
            wakers.extend(outgoing.stop(cause.clone()));
        }
    }
}

fn receiver_gone() -> RpcError {
    RpcError::new(Status::Cancelled, "the receiver has gone")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The receiving end, filled by the driver.
#[derive(Default)]
struct Incoming(Mutex<Received>);

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
    /// Returns whom to wake.
    fn push(&self, frame: &Frame<'_>) -> Result<Option<Waker>, RpcError> {
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
    fn end(&self, end: Result<(), RpcError>) -> Option<Waker> {
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

/// The credit of the sending end.
pub(super) struct Outgoing(Mutex<Credit>);

struct Credit {
    bytes: i64,
    stopped: Option<RpcError>,
    waker: Option<Waker>,
}

impl Outgoing {
    fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Credit { bytes: WINDOW as i64, stopped: None, waker: None })))
    }

    /// One whose items nobody wants.
    fn stopped(cause: RpcError) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Credit { bytes: 0, stopped: Some(cause), waker: None })))
    }

    fn grant(&self, bytes: u32) -> Option<Waker> {
        let mut credit = locked(&self.0);
        credit.bytes = credit.bytes.saturating_add(i64::from(bytes));
        credit.waker.take()
    }

    fn stop(&self, cause: RpcError) -> Option<Waker> {
        let mut credit = locked(&self.0);
        credit.stopped.get_or_insert(cause);
        credit.waker.take()
    }
}

/// The right to send the items of call `id`. Dropping it without [`end`](Self::end) ends the stream
/// with an error, so its receiver never waits for ever.
pub(crate) struct OutgoingStream {
    channel: Arc<Channel>,
    id: u64,
    outgoing: Arc<Outgoing>,
    /// Items that have gathered, one behind the other. They are not in the channel's output with the
    /// promise to flush it: before the next one a user's code runs, and may take its time.
    items: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    ended: bool,
}

impl OutgoingStream {
    /// Ready when an item may be sent; an error when none will be wanted any more.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        {
            let mut credit = locked(&self.outgoing.0);
            if let Some(cause) = &credit.stopped {
                return Poll::Ready(Err(cause.clone()));
            }
            // Registered even with credit, to hear of a stop while the source has nothing.
            credit.waker = Some(cx.waker().clone());
            if credit.bytes <= 0 {
                return Poll::Pending;
            }
        }
        let mut core = self.channel.lock();
        if core.is_writable() {
            return Poll::Ready(Ok(()));
        }
        core.await_room(cx.waker());
        Poll::Pending
    }

    /// Where the next item is to be appended.
    pub(crate) fn next_item(&mut self) -> &mut Vec<u8> {
        self.items.truncate(self.ends.last().copied().unwrap_or(0));
        &mut self.items
    }

    /// Another item is whole. Says whether it is time to [`flush`](Self::flush).
    pub(crate) fn gathered(&mut self) -> bool {
        let item = self.items.len() - self.ends.last().copied().unwrap_or(0);
        self.ends.push(self.items.len());
        locked(&self.outgoing.0).bytes -= i64::try_from(cost(item)).unwrap_or(i64::MAX);
        self.ends.len() >= MAX_GATHERED || self.items.len() >= buffer::MAX_KEPT
    }

    /// Sends the items that have gathered.
    pub(crate) fn flush(&mut self) -> Result<(), RpcError> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let result = self.channel.send_items(self.id, &self.items, &self.ends);
        self.ends.clear();
        self.items.clear();
        if self.items.capacity() > buffer::MAX_KEPT {
            self.items = Vec::new();
        }
        result
    }

    /// Ends the stream, with an error if it has one.
    pub(crate) fn end(mut self, error: Option<&RpcError>) {
        self.finish(error);
    }

    fn finish(&mut self, error: Option<&RpcError>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let failed = self.flush().err();
        let error = error.or(failed.as_ref());
        let open = self.channel.lock().streams.forget_outgoing(self.id, &self.outgoing);
        if open {
            let (header, body) = match error {
                None => (Header::response(self.id, Status::Ok), Vec::new()),
                Some(error) => crate::protocol::error_answer(self.id, error),
            };
            self.channel.send_now(Frame::new(Header { kind: Kind::StreamEnd, ..header }, &body));
        }
    }
}

impl Drop for OutgoingStream {
    fn drop(&mut self) {
        let error = RpcError::new(Status::Cancelled, "the sender gave the stream up");
        self.finish(Some(&error));
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

    pub(super) fn take_incoming(self: &Arc<Self>, id: u64) -> Option<IncomingStream> {
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

    /// Sends items of the stream `id`, which end at `ends`.
    fn send_items(&self, id: u64, items: &[u8], ends: &[usize]) -> Result<(), RpcError> {
        let header = Header { id, ..Header::new(Kind::StreamData) };
        let now = clock();
        let mut core = self.lock();
        if let State::Closed(cause) = &core.state {
            return Err(cause.clone());
        }
        let mut start = 0;
        let result = ends.iter().try_for_each(|&end| {
            let item = items.get(start..end).unwrap_or_default();
            start = end;
            core.fits(item.len())?;
            core.write(Frame::new(header, item), now)
        });
        let duty = core.claim_duty();
        drop(core);
        if duty {
            self.flush();
        }
        result
    }

    /// Lets items follow the answer of a request in work, which must be appended already. If the
    /// caller has cancelled it meanwhile, none are wanted.
    pub(crate) fn outgoing_stream(self: &Arc<Self>, id: u64, ticket: Ticket) -> OutgoingStream {
        let mut wakers = Vec::new();
        let mut core = self.lock();
        let outgoing = if core.work.is_wanted(ticket) {
            core.open_outgoing(id, &mut wakers)
        } else {
            Outgoing::stopped(receiver_gone())
        };
        drop(core);
        wake_all(wakers);
        self.sending(id, outgoing)
    }

    /// The sending end of a stream that was opened for call `id`.
    pub(super) fn sending(self: &Arc<Self>, id: u64, outgoing: Arc<Outgoing>) -> OutgoingStream {
        let channel = Arc::clone(self);
        OutgoingStream { channel, id, outgoing, items: Vec::new(), ends: Vec::new(), ended: false }
    }
}

impl Core {
    /// Lets items follow the request or answer `id`. Under the same lock as that is appended, or
    /// the peer's cancel could come before there is anything to cancel.
    pub(super) fn open_outgoing(&mut self, id: u64, wakers: &mut Vec<Waker>) -> Arc<Outgoing> {
        if let State::Closed(cause) = &self.state {
            return Outgoing::stopped(cause.clone());
        }
        let outgoing = Outgoing::open();
        if let Some(replaced) = self.streams.outgoing.insert(id, Arc::clone(&outgoing)) {
            let error = RpcError::protocol("the id of an open stream was used again");
            wakers.extend(replaced.stop(error));
        }
        // It may have stopped reading, and now there is a stream whose credit is to be read.
        wakers.extend(self.driver.take());
        outgoing
    }
}
