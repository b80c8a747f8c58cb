//! Sending the items of a stream.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use super::outgoing_stream::OutgoingStream;
use crate::call::Source;
use crate::error::RpcError;
use crate::protocol::payload::Form;

/// Sends the items of `source`, as fast as the receiver and the connection take them.
pub(crate) async fn pump(mut out: OutgoingStream, mut source: Box<dyn Source>, form: Form) {
    let error = loop {
        let next = poll_fn(|cx| {
            let next = match out.poll_ready(cx) {
                Poll::Ready(Ok(())) => poll_source(&mut *source, cx, form, out.next_item()),
                Poll::Ready(Err(cause)) => Poll::Ready(Some(Err(cause))),
                Poll::Pending => Poll::Pending,
            };
            match next {
                Poll::Pending => match out.flush() {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Some(Err(error))),
                },
                ready => ready,
            }
        });
        match next.await {
            Some(Ok(())) => {}
            Some(Err(error)) => break Some(error),
            None => break None,
        }
        if out.gathered() {
            if let Err(error) = out.flush() {
                break Some(error);
            }
            tokio::task::yield_now().await;
        }
    };
    out.end(error.as_ref());
}

/// Polls a user's stream; its panic ends the stream with an error.
fn poll_source(
    source: &mut dyn Source,
    cx: &mut Context<'_>,
    form: Form,
    item: &mut Vec<u8>,
) -> Poll<Option<Result<(), RpcError>>> {
    catch_unwind(AssertUnwindSafe(|| source.poll_next_into(cx, form, item))).unwrap_or_else(|_| {
        Poll::Ready(Some(Err(RpcError::internal("the stream's source panicked"))))
    })
}
