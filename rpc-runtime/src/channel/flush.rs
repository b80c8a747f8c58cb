//! How bytes leave; the rules are in the documentation of [`channel`](super).

use std::io;
use std::task::{Context, Poll, Waker};

use super::{Channel, ChannelLimits, clock, connection_lost, wake_all};
use crate::buffer;

/// The promise to flush a channel; kept when it is dropped.
pub(super) struct FlushDuty<'c>(pub(super) &'c Channel);

impl Drop for FlushDuty<'_> {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// What the operating system did not take.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) buffer: Vec<u8>,
    /// Where it begins.
    pub(super) at: usize,
}

impl Rest {
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }
}

/// So many gathered frames leave at once: enough that a write is worth its while.
const WORTH_A_WRITE: usize = 16;
/// The frames that are on their way leave in this many writes at least, so that the two ends work at
/// the same time, each on a part of them.
const PARTS: usize = 4;

impl ChannelLimits {
    /// How many frames leave without waiting for more, when `under_way` are to be expected.
    pub(crate) fn flush_after(&self, under_way: usize) -> usize {
        self.flush_after.unwrap_or_else(|| WORTH_A_WRITE.max(under_way / PARTS))
    }
}

impl Channel {
    /// Writes all that has gathered. Never waits; what does not fit is left to the driver.
    pub(crate) fn flush(&self) {
        let mut buffer = {
            let mut core = self.lock();
            core.duty = false;
            if core.writing || !core.pipeline.has_output() {
                // The driver may be waiting for the last promise to be kept before it closes.
                let kick = core.driver_if_needed();
                drop(core);
                kick.into_iter().for_each(Waker::wake);
                return;
            }
            core.writing = true;
            let spare = std::mem::take(&mut core.spare);
            core.take_output(spare)
        };
        let mut wakers = Vec::new();
        loop {
            let (written, result) = self.write_some(&buffer);
            let mut core = self.lock();
            core.written(written, clock(), &mut wakers);
            match result {
                Ok(true) => {}
                Ok(false) => {
                    core.rest = Rest { buffer, at: written };
                    wakers.extend(core.driver.take());
                    break;
                }
                Err(error) => {
                    drop(core);
                    self.close(connection_lost(&error));
                    break;
                }
            }
            buffer.clear();
            // With a promise outstanding, what has gathered since leaves when that is kept.
            if core.duty || !core.pipeline.has_output() {
                core.writing = false;
                if buffer.capacity() <= buffer::MAX_KEPT {
                    core.spare = buffer;
                }
                wakers.extend(core.driver_if_needed());
                break;
            }
            buffer = core.take_output(buffer);
        }
        wake_all(wakers);
    }

    /// Writes until all is written (`true`) or no more fits (`false`). Says how much was written.
    pub(super) fn write_some(&self, bytes: &[u8]) -> (usize, io::Result<bool>) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            match self.writer.try_write(rest) {
                Ok(0) => return (at, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => at += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (at, Ok(false));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (at, Err(error)),
            }
        }
        (at, Ok(true))
    }

    /// Writes what was left over: `Ok(true)` if it made progress.
    pub(super) fn poll_rest(
        &self,
        rest: &mut Rest,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        if rest.is_empty() {
            return Poll::Ready(Ok(false));
        }
        match self.writer.poll_write_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(ready) => ready?,
        }
        let (written, result) = self.write_some(rest.bytes());
        result?;
        rest.at += written;
        let mut wakers = Vec::new();
        let mut core = self.lock();
        core.written(written, clock(), &mut wakers);
        if rest.is_empty() {
            let mut empty = std::mem::take(rest).buffer;
            empty.clear();
            if empty.capacity() > buffer::MAX_KEPT {
                empty = Vec::new();
            }
            if core.pipeline.has_output() {
                *rest = Rest { buffer: core.take_output(empty), at: 0 };
            } else {
                core.writing = false;
            }
        }
        drop(core);
        wake_all(wakers);
        Poll::Ready(Ok(true))
    }
}
