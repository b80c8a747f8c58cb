//! The streams of a channel: items that follow a request or an answer.
//!
//! A stream belongs to a call and is named by the call's id; its direction is that of its items. The
//! receiver grants credit in bytes, so a slow one slows its sender down and neither other calls nor
//! memory suffer. Sender and receiver start with a window of their own; all streams of a connection
//! share another one, see [`window`].

mod cost;
mod incoming;
mod outgoing;
mod waiters;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use self::cost::cost;
use self::incoming::Pushed;
pub(in crate::connection) use self::incoming::{Incoming, Taken};
pub(in crate::connection) use self::outgoing::Outgoing;
use self::outgoing::receiver_gone;
pub(in crate::connection) use self::waiters::{Waiters, Waiting};
use self::window::{Credit, Intake};
use super::remote_error::read_error;
use crate::error::RpcError;
use crate::protocol::{Frame, Header, Kind};

/// The items of a stream are of no more use.
pub(in crate::connection) struct Unwanted;

/// The streams of one channel by the ids of their calls.
pub(in crate::connection) struct Streams {
    incoming: HashMap<u64, Arc<Incoming>>,
    outgoing: HashMap<u64, Arc<Outgoing>>,
    intake: Arc<Intake>,
    credit: Credit,
    /// Streams that wait until the channel is writable again.
    awaiting_room: Waiters,
}

impl Streams {
    /// With the window that is announced to the peer.
    pub(in crate::connection) fn new(window: usize) -> Self {
        Self {
            incoming: HashMap::new(),
            outgoing: HashMap::new(),
            intake: Arc::new(Intake::new(window)),
            credit: Credit::default(),
            awaiting_room: Waiters::default(),
        }
    }

    /// Sets the window that the peer has announced.
    pub(in crate::connection) fn greeted(&mut self, window: u32) {
        self.credit.told(window);
    }

    /// Memory of untaken items.
    #[inline]
    pub(in crate::connection) fn queued(&self) -> usize {
        self.intake.queued()
    }

    /// The frame that grants shared credit, once enough has accumulated.
    pub(in crate::connection) fn take_grant(&self) -> Option<(Header, [u8; 4])> {
        let grant = self.intake.take_grant()?;
        Some((Header::new(Kind::StreamCredit), grant.to_be_bytes()))
    }

    /// Ends the stream with the most untaken items and drops them. Returns its id; `None` if there
    /// are no untaken items.
    pub(in crate::connection) fn end_greediest(
        &mut self,
        error: &RpcError,
        wakers: &mut Vec<Waker>,
    ) -> Option<u64> {
        let queued = self.incoming.iter().map(|(id, incoming)| (incoming.queued(), *id));
        let (_, id) = queued.max().filter(|(queued, _)| *queued > 0)?;
        self.end_incoming(id, Err(error.clone()), wakers);
        self.incoming.get(&id).into_iter().for_each(|incoming| incoming.drop_items());
        Some(id)
    }

    /// Items of call `id` may arrive from now on.
    pub(in crate::connection) fn open_incoming(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        if let Some(replaced) =
            self.incoming.insert(id, Arc::new(Incoming::new(Arc::clone(&self.intake))))
        {
            let error = RpcError::protocol("the peer used the id of an open stream again");
            wakers.extend(replaced.end(Err(error)));
        }
    }

    /// Whether no items may be sent or received.
    pub(in crate::connection) fn is_empty(&self) -> bool {
        self.incoming.is_empty() && self.outgoing.is_empty()
    }

    /// A frame of a stream arrived. Frames of streams that are gone are late, not wrong.
    ///
    /// `whole`: its payload, if it can be kept without a copy.
    ///
    /// # Errors
    /// An item that cannot be taken. It has ended the stream; the sender is to be told.
    pub(in crate::connection) fn read(
        &mut self,
        frame: &Frame<'_>,
        whole: Option<Bytes>,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), Unwanted> {
        let id = frame.header.id;
        match frame.header.kind {
            Kind::StreamData => {
                // The sender has spent credit for the item, even if it is dropped.
                let skip = || self.intake.skip(cost(frame.header.length as usize));
                let Some(incoming) = self.incoming.get(&id) else {
                    skip();
                    return Ok(());
                };
                match incoming.push(frame, whole) {
                    Ok(Pushed::Queued(waker)) => wakers.extend(waker),
                    Ok(Pushed::Late) => skip(),
                    Err(error) => {
                        skip();
                        self.end_incoming(id, Err(error), wakers);
                        return Err(Unwanted);
                    }
                }
            }
            Kind::StreamEnd => {
                let end = match frame.header.status {
                    0 => Ok(()),
                    _ => Err(read_error(&frame.header, frame.body.as_slice())),
                };
                self.end_incoming(id, end, wakers);
            }
            Kind::StreamCredit if id == 0 => {
                if let Some(credit) = frame.body.as_slice().first_chunk::<4>() {
                    self.credit.grant(u32::from_be_bytes(*credit), wakers);
                }
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
        if incoming.is_taken() {
            self.incoming.remove(&id);
        }
    }

    /// The request `id` was taken back before it was begun, so nobody will take its stream.
    pub(in crate::connection) fn forget_incoming(&mut self, id: u64) {
        self.incoming.remove(&id);
    }

    /// The peer no longer wants the items of call `id`.
    pub(in crate::connection) fn cancel_outgoing(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        self.credit.forget(id);
        if let Some(outgoing) = self.outgoing.remove(&id) {
            wakers.extend(outgoing.stop(receiver_gone()));
        }
    }

    /// Opens the stream of items that follow the request or answer `id`.
    pub(in crate::connection) fn open_outgoing(
        &mut self,
        id: u64,
        wakers: &mut Vec<Waker>,
    ) -> Arc<Outgoing> {
        let outgoing = Outgoing::open();
        if let Some(replaced) = self.outgoing.insert(id, Arc::clone(&outgoing)) {
            let error = RpcError::protocol("the id of an open stream was used again");
            wakers.extend(replaced.stop(error));
        }
        outgoing
    }

    /// The stream of call `id`, for its receiver.
    pub(in crate::connection) fn take_incoming(&mut self, id: u64) -> Option<Arc<Incoming>> {
        let incoming = Arc::clone(self.incoming.get(&id)?);
        if incoming.set_taken() {
            self.incoming.remove(&id);
        }
        Some(incoming)
    }

    /// The receiver of `incoming` has gone. Returns whether the stream was still open.
    pub(in crate::connection) fn drop_incoming(
        &mut self,
        id: u64,
        incoming: &Arc<Incoming>,
    ) -> bool {
        let open = self.incoming.get(&id).is_some_and(|known| Arc::ptr_eq(known, incoming));
        if open {
            self.incoming.remove(&id);
        }
        open
    }

    /// Whether there is shared credit. If not, `waker` is woken when there is.
    pub(in crate::connection) fn poll_credit(&mut self, id: u64, waker: &Waker) -> bool {
        let left = self.credit.is_left();
        if !left {
            self.credit.wait(id, waker);
        }
        left
    }

    /// Uses up shared credit for an item.
    pub(in crate::connection) fn spend(&mut self, item: usize) {
        self.credit.spend(cost(item));
    }

    /// Streams that wait until the channel is writable.
    pub(in crate::connection) fn awaiting_room(&mut self) -> &mut Waiters {
        &mut self.awaiting_room
    }

    /// Returns whether the stream was still open.
    pub(in crate::connection) fn forget_outgoing(
        &mut self,
        id: u64,
        outgoing: &Arc<Outgoing>,
    ) -> bool {
        let open = self.outgoing.get(&id).is_some_and(|known| Arc::ptr_eq(known, outgoing));
        if open {
            self.credit.forget(id);
            self.outgoing.remove(&id);
        }
        open
    }

    /// Ends all streams. What waits for room stays until [`close`](Self::close).
    pub(in crate::connection) fn fail_all(&mut self, cause: &RpcError, wakers: &mut Vec<Waker>) {
        // What came is kept until somebody has taken the stream: its call may just be answered.
        self.incoming.retain(|_, incoming| {
            wakers.extend(incoming.end(Err(cause.clone())));
            !incoming.is_taken()
        });
        for (_, outgoing) in self.outgoing.drain() {
            wakers.extend(outgoing.stop(cause.clone()));
        }
    }

    /// Ends all streams, and wakes all tasks that wait.
    pub(in crate::connection) fn close(&mut self, cause: &RpcError, wakers: &mut Vec<Waker>) {
        self.fail_all(cause, wakers);
        self.awaiting_room.all(wakers);
    }
}
