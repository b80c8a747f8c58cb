//! The items of a stream that belongs to a call, and observers of its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::RpcError;
use crate::protocol::DecodeLimits;
use crate::protocol::payload::Form;

/// Items that this end sends.
pub(crate) trait Source: Send {
    /// Appends the next item to `out`; `None` at the end.
    fn poll_next_into(
        &mut self,
        cx: &mut Context<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<(), RpcError>>>;
}

/// Items that the other end sends. Dropping it tells the other end to stop.
pub(crate) trait Items: Send {
    /// The next item, still encoded; `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>>;

    /// The limits for decoding an item.
    fn limits(&self) -> DecodeLimits;
}

/// The items that follow a reply.
pub(crate) enum ReplyStream {
    /// At the client.
    Incoming(Box<dyn Items>),
    /// At the server.
    Outgoing(Box<dyn Source>),
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEnd {
    /// All items were sent or received.
    Finished,
    /// An error ended the stream.
    Failed(RpcError),
    /// The receiver dropped the stream, or, at a server, the connection ended.
    Cancelled,
}

impl ReplyStream {
    /// The same stream, which calls `listener` once when it has ended.
    pub(super) fn on_end(self, listener: impl FnOnce(StreamEnd) + Send + 'static) -> Self {
        let end = EndListener(Some(Box::new(listener)));
        match self {
            Self::Incoming(inner) => Self::Incoming(Box::new(Watched { end, inner })),
            Self::Outgoing(inner) => Self::Outgoing(Box::new(Watched { end, inner })),
        }
    }
}

/// Is notified of the end once. Dropping it reports that the stream was cancelled.
struct EndListener(Option<Box<dyn FnOnce(StreamEnd) + Send>>);

impl EndListener {
    fn notify(&mut self, end: StreamEnd) {
        if let Some(listener) = self.0.take() {
            notify(listener, end);
        }
    }

    /// Checks the result of a poll for the end.
    fn observe<T>(&mut self, next: &Poll<Option<Result<T, RpcError>>>) {
        match next {
            Poll::Ready(None) => self.notify(StreamEnd::Finished),
            Poll::Ready(Some(Err(error))) => self.notify(StreamEnd::Failed(error.clone())),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
    }
}

impl Drop for EndListener {
    fn drop(&mut self) {
        self.notify(StreamEnd::Cancelled);
    }
}

/// Calls a user's code. The call has ended by now, so a panic there affects nothing else; the panic
/// hook has printed it. It must not unwind out of a `drop`.
pub(super) fn notify(listener: impl FnOnce(StreamEnd), end: StreamEnd) {
    let _ = catch_unwind(AssertUnwindSafe(|| listener(end)));
}

/// A stream whose end is observed.
struct Watched<S> {
    /// Dropped before the stream, whose own drop may report more.
    end: EndListener,
    inner: S,
}

impl Items for Watched<Box<dyn Items>> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        let next = self.inner.poll_next(cx);
        self.end.observe(&next);
        next
    }

    fn limits(&self) -> DecodeLimits {
        self.inner.limits()
    }
}

impl Source for Watched<Box<dyn Source>> {
    fn poll_next_into(
        &mut self,
        cx: &mut Context<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<(), RpcError>>> {
        let next = self.inner.poll_next_into(cx, form, out);
        self.end.observe(&next);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::task::Waker;

    use super::*;

    struct Given(Vec<Option<Result<(), RpcError>>>);

    impl Source for Given {
        fn poll_next_into(
            &mut self,
            _: &mut Context<'_>,
            _: Form,
            _: &mut Vec<u8>,
        ) -> Poll<Option<Result<(), RpcError>>> {
            self.0.pop().map_or(Poll::Pending, Poll::Ready)
        }
    }

    fn watched(given: Vec<Option<Result<(), RpcError>>>) -> (Box<dyn Source>, Receiver<StreamEnd>) {
        let (told, ends) = channel();
        let stream = ReplyStream::Outgoing(Box::new(Given(given)));
        match stream.on_end(move |end| told.send(end).unwrap()) {
            ReplyStream::Outgoing(source) => (source, ends),
            ReplyStream::Incoming(_) => panic!("it is outgoing"),
        }
    }

    fn ends_after_two_items(given: Vec<Option<Result<(), RpcError>>>) -> Vec<StreamEnd> {
        let (mut source, ends) = watched(given);
        for _ in 0..2 {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = source.poll_next_into(&mut cx, Form::Named, &mut Vec::new());
        }
        drop(source);
        ends.iter().collect()
    }

    #[test]
    fn the_end_of_a_stream_is_told_once() {
        let failed = RpcError::internal("no more");
        assert_eq!(ends_after_two_items(vec![None, Some(Ok(()))]), [StreamEnd::Finished]);
        assert_eq!(ends_after_two_items(vec![None, None]), [StreamEnd::Finished]);
        assert_eq!(
            ends_after_two_items(vec![Some(Err(failed.clone()))]),
            [StreamEnd::Failed(failed)]
        );
        assert_eq!(ends_after_two_items(vec![]), [StreamEnd::Cancelled]);
    }
}
