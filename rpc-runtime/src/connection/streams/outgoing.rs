//! The sending end of a stream.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::super::state::waiters::Waiting;
use super::super::{Channel, Core, State, WorkId, clock, wake_all};
use super::{WINDOW, cost, locked, receiver_gone};
use crate::buffer;
use crate::error::RpcError;
use crate::protocol::{Frame, Header, Kind};
use crate::status::Status;

/// Items that gather before they leave together.
const MAX_GATHERED: usize = 64;

/// The credit of the sending end.
pub(in crate::connection) struct Outgoing(Mutex<Credit>);

struct Credit {
    bytes: i64,
    stopped: Option<RpcError>,
    waker: Option<Waker>,
}

impl Outgoing {
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Credit { bytes: WINDOW as i64, stopped: None, waker: None })))
    }

    /// One whose items nobody wants.
    pub(super) fn stopped(cause: RpcError) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Credit { bytes: 0, stopped: Some(cause), waker: None })))
    }

    pub(super) fn grant(&self, bytes: u32) -> Option<Waker> {
        let mut credit = locked(&self.0);
        credit.bytes = credit.bytes.saturating_add(i64::from(bytes));
        credit.waker.take()
    }

    pub(super) fn stop(&self, cause: RpcError) -> Option<Waker> {
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
    /// For room in the channel's output.
    waiting: Waiting,
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
        if !core.streams.credit.is_left() {
            core.streams.credit.wait(self.id, cx.waker());
            return Poll::Pending;
        }
        if core.is_writable() {
            return Poll::Ready(Ok(()));
        }
        core.await_room.register(&mut self.waiting, cx.waker());
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
        let open = {
            let mut core = self.channel.lock();
            core.await_room.remove(&mut self.waiting);
            core.streams.forget_outgoing(self.id, &self.outgoing)
        };
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
            core.write(Frame::new(header, item), now)?;
            core.streams.credit.spend(cost(item.len()));
            Ok(())
        });
        let duty = core.claim_duty();
        drop(core);
        if duty {
            self.flush(now);
        }
        result
    }

    /// Lets items follow the answer of a request in work, which must be appended already. If the
    /// caller has cancelled it meanwhile, none are wanted.
    pub(crate) fn outgoing_stream(self: &Arc<Self>, id: u64, work_id: WorkId) -> OutgoingStream {
        let mut wakers = Vec::new();
        let mut core = self.lock();
        let outgoing = if core.work.is_wanted(work_id) {
            core.open_outgoing(id, &mut wakers)
        } else {
            Outgoing::stopped(receiver_gone())
        };
        drop(core);
        wake_all(wakers);
        self.sending(id, outgoing)
    }

    /// The sending end of a stream that was opened for call `id`.
    pub(in crate::connection) fn sending(
        self: &Arc<Self>,
        id: u64,
        outgoing: Arc<Outgoing>,
    ) -> OutgoingStream {
        let channel = Arc::clone(self);
        OutgoingStream {
            channel,
            id,
            outgoing,
            items: Vec::new(),
            ends: Vec::new(),
            waiting: Waiting::default(),
            ended: false,
        }
    }
}

impl Core {
    /// Lets items follow the request or answer `id`. Under the same lock as that is appended, or
    /// the peer's cancel could come before there is anything to cancel.
    pub(in crate::connection) fn open_outgoing(
        &mut self,
        id: u64,
        wakers: &mut Vec<Waker>,
    ) -> Arc<Outgoing> {
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
