//! [`MeteredWriter`]: writes output to the transport, and counts it.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use crate::observe::{ConnectionMetrics, Observer};
use crate::protocol::Output;
use crate::transport::Writer;

/// Pieces of one vectored write.
const MAX_SLICES: usize = 16;

/// The writing half of a connection's transport, and the connection's metrics.
pub(super) struct MeteredWriter {
    writer: Box<dyn Writer>,
    metrics: ConnectionMetrics,
}

impl MeteredWriter {
    pub(super) fn new(writer: Box<dyn Writer>, metrics: ConnectionMetrics) -> Self {
        Self { writer, metrics }
    }

    pub(super) fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }

    /// The transport's half.
    pub(super) fn transport(&self) -> &dyn Writer {
        &*self.writer
    }

    /// Writes what is behind the first `from` bytes, until all is written (`true`) or no more fits
    /// (`false`). Returns how much was written, too.
    pub(super) fn write_some(&self, output: &Output, from: usize) -> (usize, io::Result<bool>) {
        let (written, result) = self.write_uncounted(output, from);
        self.metrics.sent(written);
        (written, result)
    }

    fn write_uncounted(&self, output: &Output, from: usize) -> (usize, io::Result<bool>) {
        let mut written = 0;
        while from + written < output.len() {
            let at = from + written;
            let result = match output.single(at) {
                Some(bytes) => self.writer.try_write(bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let filled = output.slices(at, &mut slices);
                    self.writer.try_write_vectored(slices.get(..filled).unwrap_or_default())
                }
            };
            match result {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (written, Ok(false));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(true))
    }

    /// Ready when something may fit again.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_write_ready(cx)
    }

    /// The connection has ended.
    pub(super) fn shutdown(&self, observer: Observer) {
        self.metrics.closed(observer);
        self.writer.shutdown();
    }
}
