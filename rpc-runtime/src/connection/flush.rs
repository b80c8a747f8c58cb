//! How bytes leave; the rules are in the documentation of [`channel`](super).

use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rpc_registry::limited;

use super::pace::{Pace, least};
use super::state::State;
use super::{Channel, ChannelSettings, clock, connection_lost, wake_all};
use crate::budget::FREE;
use crate::buffer;
use crate::error::RpcError;
use crate::observe::EndedConnection;
use crate::protocol::Output;

/// So many frames leave without waiting for more in any case; Netty's flush consolidation has the
/// same number.
const MAX_GATHERED: usize = 256;
/// Pieces of one vectored write.
const MAX_SLICES: usize = 16;

/// The promise to flush a channel, given at that time; kept when it is dropped.
pub(super) struct FlushDuty<'c>(pub(super) &'c Channel, pub(super) Instant);

impl Drop for FlushDuty<'_> {
    fn drop(&mut self) {
        self.0.flush(self.1);
    }
}

/// What the operating system did not take.
#[derive(Default)]
pub(super) struct Rest {
    output: Output,
    /// Where it begins.
    at: usize,
    pace: Pace,
}

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.output.len() <= self.at
    }

    fn new(output: Output, at: usize, now: Instant) -> Self {
        let mut pace = Pace::default();
        pace.begin(now);
        Self { output, at, pace }
    }

    /// The time at which the peer will have read too slowly, if output waits.
    pub(super) fn stalls_at(&self, limit: Duration) -> Option<Instant> {
        self.pace.due(limit).filter(|_| !self.is_empty())
    }

    /// Whether the peer reads too slowly. Before it is judged, another check is due: a method may
    /// have blocked the thread that polls the sockets while the peer was reading. The next timer
    /// fires after the sockets were polled.
    pub(super) fn has_stalled(&mut self, limit: Duration, now: Instant) -> bool {
        !self.is_empty() && self.pace.is_slow(limit, now)
    }
}

/// So many gathered frames are worth a write of their own.
const WORTH_A_WRITE: usize = 16;
/// The frames that are under way leave in this many writes at least, while cores are idle, so that
/// the two ends work at the same time, each on a part of them.
const PARTS: usize = 4;

impl ChannelSettings {
    /// How many frames leave without waiting for more, when `under_way` are to be expected. `split`:
    /// there are idle cores.
    pub(crate) fn flush_after(&self, under_way: usize, split: bool) -> usize {
        let best = if split { WORTH_A_WRITE.max(under_way / PARTS) } else { MAX_GATHERED };
        self.flush_after.unwrap_or(best)
    }
}

impl Channel {
    /// Writes all that has gathered. Never waits; what does not fit is left to the driver.
    ///
    /// The time need not be more exact than handlers that measure silence want it: a little early.
    pub(crate) fn flush(&self, mut now: Instant) {
        let mut wakers = Vec::new();
        let mut output = {
            let mut core = self.lock();
            core.duty = false;
            if core.pipeline.pending_bytes() > FREE {
                core.settle(&mut wakers);
            }
            if core.writing || !core.pipeline.has_output() {
                // The driver may be waiting for the last promise to be kept before it closes.
                wakers.extend(core.driver_if_needed());
                drop(core);
                wake_all(wakers);
                return;
            }
            core.writing = true;
            let spare = std::mem::take(&mut core.spare);
            core.take_output(spare)
        };
        loop {
            let (written, result) = self.write_some(&output, 0);
            self.metrics.sent(written);
            let mut core = self.lock();
            core.written(written, now, &mut wakers);
            match result {
                Ok(true) => {}
                // Nothing writes the rest of it.
                Ok(false) if matches!(core.state, State::Closed(_)) => break,
                Ok(false) => {
                    // Exact: a promise may be kept long after it was given, and the peer is judged by
                    // this.
                    core.rest = Rest::new(output, written, clock());
                    wakers.extend(core.driver.take());
                    break;
                }
                Err(error) => {
                    drop(core);
                    self.close(connection_lost(&error));
                    break;
                }
            }
            let empty = output.cleared(buffer::MAX_KEPT);
            // With a promise outstanding, what has gathered since leaves when that is kept.
            if core.duty || !core.pipeline.has_output() {
                core.writing = false;
                core.spare = empty;
                wakers.extend(core.driver_if_needed());
                break;
            }
            output = core.take_output(empty);
            drop(core);
            now = clock();
        }
        wake_all(wakers);
    }

    /// Writes until all is written (`true`) or no more fits (`false`). Says how much was written.
    fn write_some(&self, output: &Output, from: usize) -> (usize, io::Result<bool>) {
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

    /// Why a connection is closed whose peer does not read.
    pub(super) fn slow_reader(&self) -> RpcError {
        let cause = RpcError::unavailable(format!(
            "the peer reads too slowly: too few of the waiting bytes were read within {:?} \
             (`slow_reader_timeout`, `min_rate`)",
            self.settings.slow_reader_timeout
        ));
        self.settings.observer.connection_ended(EndedConnection::SlowReader);
        limited!(warn, peer = %self.peer, %cause, "connection closed");
        cause
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
        let (written, result) = self.write_some(&rest.output, rest.at);
        self.metrics.sent(written);
        result?;
        let now = clock();
        if written > 0 {
            rest.at += written;
            let least = least(self.settings.min_rate, self.settings.slow_reader_timeout);
            rest.pace.add(written, least, now);
        }
        let mut wakers = Vec::new();
        let mut core = self.lock();
        core.written(written, now, &mut wakers);
        if rest.is_empty() {
            let Rest { output, pace, .. } = std::mem::take(rest);
            let empty = output.cleared(buffer::MAX_KEPT);
            if core.pipeline.has_output() {
                // What waits has been waiting: a portion that was taken does not begin it anew.
                *rest = Rest { output: core.take_output(empty), at: 0, pace };
            } else {
                core.writing = false;
                core.spare = empty;
            }
        }
        drop(core);
        wake_all(wakers);
        Poll::Ready(Ok(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_parts_only_while_cores_are_idle() {
        let mut settings = ChannelSettings::default();
        let after = |settings: &ChannelSettings| {
            [(64, true), (1_000, true), (3, true), (64, false)]
                .map(|(under_way, split)| settings.flush_after(under_way, split))
        };
        assert_eq!(after(&settings), [16, 250, 16, MAX_GATHERED]);
        settings.flush_after = Some(7);
        assert_eq!(after(&settings), [7; 4]);
    }
}
