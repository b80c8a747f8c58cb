//! How the output leaves: flushes, the driver's writes, and what they change.

use std::io;
use std::time::Instant;

use super::flushing::DUTY_GRACE;
use super::{ConnectionState, Effects};
use crate::buffer;
use crate::connection::lost::connection_lost;
use crate::connection::unwritten::Unwritten;
use crate::protocol::Output;

/// How an attempt to write went.
pub(in crate::connection) struct Wrote {
    /// Bytes that were written.
    pub(in crate::connection) bytes: usize,
    /// Whether all is written; otherwise no more fits.
    pub(in crate::connection) result: io::Result<bool>,
    /// The time after the attempt. Exact where no more fits: a promise may be kept long after it was
    /// given, and the peer is judged by this.
    pub(in crate::connection) now: Instant,
}

impl ConnectionState {
    /// Has the output flushed at once, unless somebody has promised to.
    #[inline]
    pub(super) fn flush_now(&mut self, now: Instant, effects: &mut Effects) {
        if self.flushing.duty.claim() {
            effects.flush = Some(now);
        }
    }

    /// Has the output flushed that has gathered, unless somebody has promised to.
    pub(in crate::connection) fn flush_gathered(&mut self, now: Instant, effects: &mut Effects) {
        if self.pipeline.has_output() && !self.flushing.duty.is_promised() {
            effects.flush = Some(now);
        }
    }

    /// A flush begins. Returns what is to be written, unless another writes. Nothing is to be done
    /// for that: it follows from the [end](Self::flushed) of the flush.
    #[inline]
    pub(in crate::connection) fn begin_flush(&mut self) -> Option<Output> {
        let begins = self.flushing.duty.begin(self.pipeline.has_output());
        begins.then(|| {
            let spare = std::mem::take(&mut self.flushing.spare);
            self.take_output(spare)
        })
    }

    /// A flush of the driver's begins, unless somebody has promised to flush.
    #[inline]
    pub(in crate::connection) fn begin_gathered_flush(&mut self) -> Option<Output> {
        if self.flushing.duty.is_promised() { None } else { self.begin_flush() }
    }

    /// A flush has written some of `output`. Returns what it is to write next.
    pub(in crate::connection) fn flushed(
        &mut self,
        output: Output,
        wrote: Wrote,
        effects: &mut Effects,
    ) -> Option<Output> {
        self.written(wrote.bytes, wrote.now, effects);
        match wrote.result {
            Ok(true) => {}
            // Nothing writes the rest of it.
            Ok(false) if self.lifecycle.is_closed() => return None,
            Ok(false) => {
                self.flushing.duty.leave_to_driver();
                self.flushing.unwritten = Unwritten::new(output, wrote.bytes, wrote.now);
                self.wake_driver(effects);
                return None;
            }
            Err(error) => {
                self.close(connection_lost(&error), wrote.now, effects);
                return None;
            }
        }
        let empty = output.cleared(buffer::MAX_KEPT);
        if !self.flushing.duty.go_on(self.pipeline.has_output()) {
            self.flushing.spare = empty;
            return None;
        }
        effects.writing = true;
        Some(self.take_output(empty))
    }

    /// The driver has written some of `unwritten`; what comes next takes its place.
    pub(in crate::connection) fn unwritten_advanced(
        &mut self,
        unwritten: &mut Unwritten,
        bytes: usize,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.written(bytes, now, effects);
        if !unwritten.is_empty() {
            return;
        }
        if self.flushing.duty.go_on(self.pipeline.has_output()) {
            unwritten.replace(|written| self.take_output(written.cleared(buffer::MAX_KEPT)));
        } else {
            self.flushing.spare = unwritten.finish().cleared(buffer::MAX_KEPT);
        }
    }

    /// `bytes` bytes have left; what waited for room may go on.
    fn written(&mut self, bytes: usize, now: Instant, effects: &mut Effects) {
        let was_writable = self.is_writable();
        self.pipeline(|pipeline, tail| pipeline.written(bytes, now, tail));
        if !was_writable && self.is_writable() {
            // It may have stopped reading.
            self.wake_driver(effects);
            self.streams.awaiting_room().next_few(&mut effects.wakers);
        }
    }

    /// What is to be sent, in exchange for an empty buffer.
    #[inline]
    fn take_output(&mut self, empty: Output) -> Output {
        self.flushing.gathered = 0;
        self.pipeline.take_output(empty)
    }

    /// Drops the unwritten output. Nothing more is sent.
    pub(super) fn drop_output(&mut self) {
        while self.pipeline.has_output() {
            let mut dropped = self.pipeline.take_output(Output::default());
            dropped.truncate(0);
        }
        self.pipeline.discard_pending();
        self.flushing.unwritten = Unwritten::default();
        self.flushing.spare = Output::default();
    }

    /// Nothing is left to be written, nor will be by somebody who promised.
    pub(in crate::connection) fn is_flushed(&self) -> bool {
        self.flushing.duty.is_done(self.pipeline.has_output())
    }

    /// The driver's look at the output, which has it flushed that nobody else sees to.
    pub(in crate::connection) fn look_at_output(&mut self, now: Instant, effects: &mut Effects) {
        if self.flushing.duty.look(self.pipeline.has_output(), now, now + DUTY_GRACE) {
            effects.flush = Some(now);
        }
    }
}
