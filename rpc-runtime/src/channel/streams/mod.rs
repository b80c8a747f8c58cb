//! The streams of a channel: items that follow a request or an answer.
//!
//! A stream belongs to a call and is named by the call's id; its direction is that of its items. The
//! receiver grants credit in bytes, so a slow one slows its sender down and neither other calls nor
//! memory suffer. Sender and receiver start with [`WINDOW`].

mod incoming;
mod outgoing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use self::incoming::Incoming;
pub(crate) use self::incoming::IncomingStream;
use self::outgoing::Outgoing;
pub(crate) use self::outgoing::OutgoingStream;
use crate::error::RpcError;
use crate::protocol::{Frame, HEADER_LEN, Kind};
use crate::status::Status;

/// Bytes that may be under way unasked. A sender may send while it has any credit left, so one item
/// of the payload limit can be on top.
pub(crate) const WINDOW: usize = 256 << 10;

/// What an item costs: its header, too, so that empty ones are not for free.
fn cost(item: usize) -> usize {
    item.saturating_add(HEADER_LEN)
}

/// The items of a stream are of no more use.
pub(in crate::channel) struct Unwanted;

/// The streams of one channel by the ids of their calls.
#[derive(Default)]
pub(in crate::channel) struct Streams {
    incoming: HashMap<u64, Arc<Incoming>>,
    outgoing: HashMap<u64, Arc<Outgoing>>,
}

impl Streams {
    /// Items of call `id` may arrive from now on.
    pub(in crate::channel) fn open_incoming(&mut self, id: u64, wakers: &mut Vec<Waker>) {
        if let Some(replaced) = self.incoming.insert(id, Arc::default()) {
            let error = RpcError::protocol("the peer used the id of an open stream again");
            wakers.extend(replaced.end(Err(error)));
        }
    }

    /// Whether no items may be sent or received.
    pub(in crate::channel) fn is_empty(&self) -> bool {
        self.incoming.is_empty() && self.outgoing.is_empty()
    }

    /// A frame of a stream arrived. Frames of streams that are gone are late, not wrong.
    ///
    /// # Errors
    /// An item that cannot be taken. It has ended the stream; the sender is to be told.
    pub(in crate::channel) fn read(
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
        if incoming.is_taken() {
            self.incoming.remove(&id);
        }
    }

    /// The request `id` was taken back before it was begun, so nobody will take its stream.
    pub(in crate::channel) fn forget_incoming(&mut self, id: u64) {
        self.incoming.remove(&id);
    }

    /// The peer no longer wants the items of call `id`.
    pub(in crate::channel) fn cancel_outgoing(&mut self, id: u64, wakers: &mut Vec<Waker>) {
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

    pub(in crate::channel) fn fail_all(&mut self, cause: &RpcError, wakers: &mut Vec<Waker>) {
        // What came is kept until somebody has taken the stream: its call may just be answered.
        self.incoming.retain(|_, incoming| {
            wakers.extend(incoming.end(Err(cause.clone())));
            !incoming.is_taken()
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
