//! [`OutgoingStream`]: the right to send the items of a stream.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::channel::Channel;
use super::clock::clock;
use super::state::WorkId;
use super::streams::{Outgoing, Waiting};
use crate::buffer;
use crate::error::RpcError;
use crate::protocol::{Frame, Header, Kind};
use crate::status::Status;

/// Items that gather before they leave together.
const MAX_GATHERED: usize = 64;

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
        match self.outgoing.poll_credit(cx.waker()) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        let Self { channel, id, waiting, .. } = self;
        match channel.update(|state, _| state.may_send_item(*id, waiting, cx.waker())) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
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
        self.outgoing.spend(item);
        self.ends.len() >= MAX_GATHERED || self.items.len() >= buffer::MAX_KEPT
    }

    /// Sends the items that have gathered.
    pub(crate) fn flush(&mut self) -> Result<(), RpcError> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let now = clock();
        let Self { channel, id, items, ends, .. } = self;
        let result =
            channel.update(|state, effects| state.send_items(*id, items, ends, now, effects));
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
        let (header, body) = match error.or(failed.as_ref()) {
            None => (Header::response(self.id, Status::Ok), Vec::new()),
            Some(error) => crate::protocol::error_answer(self.id, error),
        };
        let end = Frame::new(Header { kind: Kind::StreamEnd, ..header }, &body);
        let now = clock();
        let Self { channel, outgoing, waiting, .. } = self;
        channel.update(|state, effects| state.end_outgoing(outgoing, waiting, end, now, effects));
    }
}

impl Drop for OutgoingStream {
    fn drop(&mut self) {
        let error = RpcError::new(Status::Cancelled, "the sender gave the stream up");
        self.finish(Some(&error));
    }
}

impl Channel {
    /// Lets items follow the answer of a request in work, which must be appended already. If the
    /// caller has cancelled it meanwhile, none are wanted.
    pub(crate) fn outgoing_stream(self: &Arc<Self>, id: u64, work: WorkId) -> OutgoingStream {
        let outgoing = self.update(|state, effects| state.open_response_stream(id, work, effects));
        self.sending(id, outgoing)
    }

    /// The sending end of a stream that was opened for call `id`.
    pub(super) fn sending(self: &Arc<Self>, id: u64, outgoing: Arc<Outgoing>) -> OutgoingStream {
        OutgoingStream {
            channel: Arc::clone(self),
            id,
            outgoing,
            items: Vec::new(),
            ends: Vec::new(),
            waiting: Waiting::default(),
            ended: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::{Duration, Instant};

    use tokio::task::JoinSet;

    use super::*;
    use crate::connection::ChannelSettings;
    use crate::connection::driver::{self, Batch, RequestHandler};
    use crate::protocol::Hello;
    use crate::transport::raw::pair;

    /// Takes no requests.
    struct Deaf;

    impl RequestHandler for Deaf {
        fn handle(&mut self, _: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
            batch.now
        }
        fn limits_reading(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_wait_for_room_are_woken_though_none_of_them_uses_it() {
        let (transport, mut raw) = pair().await;
        let settings = ChannelSettings::default();
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        tokio::spawn(driver::run(Arc::clone(&channel), reader, Deaf));
        tokio::task::yield_now().await;
        // More than a pipe holds.
        let body = vec![7; 1 << 20];
        channel.send(Frame::new(Header::new(Kind::Oneway), &body));
        assert!(!channel.is_writable());
        let mut tasks = JoinSet::new();
        for id in 1..1_000 {
            let outgoing = channel.update(|state, effects| state.open_outgoing(id, effects));
            let mut stream = channel.sending(id, outgoing);
            tasks.spawn(async move {
                poll_fn(|cx| stream.poll_ready(cx)).await.unwrap();
                stream
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(tasks.try_join_next().is_none(), "there is no room");
        assert!(raw.frame(Kind::Oneway).await.is_some());
        let all = tokio::time::timeout(Duration::from_secs(1), tasks.join_all()).await;
        assert_eq!(all.map_or(0, |streams| streams.len()), 999);
        channel.close(RpcError::unavailable("the test is over"));
    }
}
