//! The items of streams: sent, taken and given up.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::{ConnectionState, Effects, WorkId};
use crate::connection::streams::{Incoming, Outgoing, Waiting};
use crate::error::RpcError;
use crate::protocol::{Frame, Header, Kind};
use crate::status::Status;

impl ConnectionState {
    /// Lets items follow the request or answer `id`. In the same change as that is appended, or the
    /// peer's cancel could come before there is anything to cancel.
    pub(in crate::connection) fn open_outgoing(
        &mut self,
        id: u64,
        effects: &mut Effects,
    ) -> Arc<Outgoing> {
        if let Some(cause) = self.lifecycle.closed() {
            return Outgoing::stopped(cause.clone());
        }
        // It may have stopped reading, and now there is a stream whose credit is to be read.
        self.wake_driver(effects);
        self.streams.open_outgoing(id, &mut effects.wakers)
    }

    /// Lets items follow the answer of a request in work, unless the caller has cancelled it.
    pub(in crate::connection) fn open_response_stream(
        &mut self,
        id: u64,
        work: WorkId,
        effects: &mut Effects,
    ) -> Arc<Outgoing> {
        match self.work.is_wanted(work) {
            true => self.open_outgoing(id, effects),
            false => Outgoing::unwanted(),
        }
    }

    /// Whether an item of the stream `id` may be sent, as far as the connection goes. If not,
    /// `waker` is woken when it may.
    pub(in crate::connection) fn may_send_item(
        &mut self,
        id: u64,
        waiting: &mut Waiting,
        waker: &Waker,
    ) -> bool {
        if !self.streams.poll_credit(id, waker) {
            return false;
        }
        let writable = self.is_writable();
        if !writable {
            self.streams.awaiting_room().register(waiting, waker);
        }
        writable
    }

    /// Sends items of the stream `id`, which end at `ends`.
    pub(in crate::connection) fn send_items(
        &mut self,
        id: u64,
        items: &[u8],
        ends: &[usize],
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), RpcError> {
        if let Some(cause) = self.lifecycle.closed() {
            return Err(cause.clone());
        }
        let header = Header { id, ..Header::new(Kind::StreamData) };
        let mut start = 0;
        let result = ends.iter().try_for_each(|&end| {
            let item = items.get(start..end).unwrap_or_default();
            start = end;
            self.peer.fits(item.len())?;
            self.write(Frame::new(header, item), now)?;
            self.streams.spend(item.len());
            Ok(())
        });
        self.flush_now(now, effects);
        result
    }

    /// The sender of a stream has ended: nothing follows but `end`.
    pub(in crate::connection) fn end_outgoing(
        &mut self,
        outgoing: &Arc<Outgoing>,
        waiting: &mut Waiting,
        end: Frame<'_>,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.streams.awaiting_room().remove(waiting);
        if self.streams.forget_outgoing(end.header.id, outgoing) {
            // Nobody waits for the outcome.
            let _ = self.send(end, now, effects);
        }
    }

    /// The stream of call `id`, for its receiver.
    pub(in crate::connection) fn take_incoming(&mut self, id: u64) -> Option<Arc<Incoming>> {
        self.streams.take_incoming(id)
    }

    /// The receiver of a stream has gone: its sender is told to stop.
    pub(in crate::connection) fn drop_incoming(
        &mut self,
        id: u64,
        incoming: &Arc<Incoming>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.streams.drop_incoming(id, incoming) {
            let cancel = Frame::bare(Header { id, ..Header::new(Kind::Cancel) });
            // Nobody waits for the outcome.
            let _ = self.send(cancel, now, effects);
        }
    }

    /// Grants the sender of the stream `id` more credit.
    pub(in crate::connection) fn grant(
        &mut self,
        id: u64,
        bytes: u32,
        now: Instant,
        effects: &mut Effects,
    ) {
        let header = Header { id, ..Header::new(Kind::StreamCredit) };
        // Nobody waits for the outcome.
        let _ = self.send(Frame::new(header, &bytes.to_be_bytes()), now, effects);
    }

    /// Grants credit of the window that all streams share, if the peer supports it and enough has
    /// accumulated.
    #[inline]
    pub(in crate::connection) fn grant_window(&mut self, now: Instant, effects: &mut Effects) {
        if self.peer.has_stream_window()
            && let Some((header, credit)) = self.streams.take_grant()
        {
            // Only a handler can refuse it, for a reason of its own.
            let _ = self.send(Frame::new(header, &credit), now, effects);
        }
    }

    /// Ends the stream with the most untaken items, if there is one. Otherwise the connection would
    /// have to end.
    pub(in crate::connection) fn end_greediest_stream(
        &mut self,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let error = RpcError::new(
            Status::Overloaded,
            "the items were not taken, and their memory was needed (`MemoryLimits::connection`)",
        );
        let ended = self.streams.end_greediest(&error, &mut effects.wakers);
        let Some(id) = ended else { return false };
        effects.stream_refused = true;
        // A lost cancel only costs the peer some work.
        let _ = self.send(Frame::bare(Header { id, ..Header::new(Kind::Cancel) }), now, effects);
        self.count_memory(effects);
        true
    }
}
