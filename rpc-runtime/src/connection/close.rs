//! The end of a connection whose peer is to hear why.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use super::read_buffer::take_read_buffer;
use super::settings::MAX_CONTROL;
use crate::error::RpcError;
use crate::protocol::{Codec, FrameCodec, Output, error_frame};
use crate::transport::{Reader, Transport, Writer};

/// How long a closed connection still takes in what the peer has sent. Bytes that arrive at a socket
/// that is closed destroy those that it has yet to send.
const LINGER: Duration = Duration::from_millis(500);

/// Writes no more; takes in and drops what the peer still sends, for a short while.
pub(super) async fn linger(reader: &mut dyn Reader, writer: &dyn Writer) {
    writer.shutdown_write();
    let mut dropped = take_read_buffer();
    let drain = poll_fn(|cx| {
        loop {
            dropped.clear();
            match reader.poll_read(cx, &mut dropped, usize::MAX) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Ends a connection that is not served: an error frame about the connection, and nothing else. Done
/// within a second.
pub(crate) async fn refuse(transport: Transport, why: &RpcError) {
    let Transport { mut reader, writer, .. } = transport;
    let said = tokio::time::timeout(LINGER, say(&*writer, why)).await;
    // Otherwise the peer does not listen, or has gone.
    if matches!(said, Ok(Ok(()))) {
        linger(&mut *reader, &*writer).await;
    }
    writer.shutdown();
}

async fn say(writer: &dyn Writer, why: &RpcError) -> io::Result<()> {
    let mut output = Output::default();
    let mut codec = FrameCodec::new(MAX_CONTROL);
    codec.encode(&error_frame(0, why), &mut output).map_err(io::Error::other)?;
    let bytes = output.to_vec();
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        match writer.try_write(left) {
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|cx| writer.poll_write_ready(cx)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
