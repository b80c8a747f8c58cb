//! What a batch of the peer's frames changes.

use std::time::Instant;

use bytes::Bytes;

use super::tail::{Arrived, ChannelTail, Reading};
use super::{ConnectionState, Effects};
use crate::pipeline::{Pipeline, Tail};
use crate::protocol::Frame;

/// Requests handled before another look at whether the answers still find room.
pub(in crate::connection) const MAX_REQUESTS: usize = 128;

/// Input of the pipeline.
pub(in crate::connection) struct Input<'i> {
    pub(in crate::connection) bytes: &'i [u8],
    /// The same bytes, if parts of them may be kept.
    pub(in crate::connection) shared: Option<&'i Bytes>,
    /// Requests that may be taken from it.
    pub(in crate::connection) at_most: usize,
    /// There are cores that no connection keeps busy.
    pub(in crate::connection) idle_cores: bool,
    pub(in crate::connection) now: Instant,
}

/// What became of the input.
#[derive(Clone, Copy, Debug)]
pub(in crate::connection) struct Consumed {
    pub(in crate::connection) bytes: usize,
    /// Bytes there must be before there can be another frame.
    pub(in crate::connection) needed: usize,
    /// There may be whole frames in what is left.
    pub(in crate::connection) has_frames: bool,
}

/// The requests of the peer when others arrive.
#[derive(Clone, Copy, Debug)]
pub(in crate::connection) struct InWork {
    pub(in crate::connection) requests: usize,
    /// More is in work than there should be.
    pub(in crate::connection) overloaded: bool,
    pub(in crate::connection) split: bool,
}

impl ConnectionState {
    /// Runs input through the pipeline and takes in what it brings. Requests are appended to
    /// `requests`, for the driver to hand on.
    #[inline]
    pub(in crate::connection) fn read<'a>(
        &mut self,
        input: &Input<'a>,
        requests: &mut Vec<Frame<'a>>,
        effects: &mut Effects,
    ) -> (Consumed, InWork) {
        let now = input.now;
        self.flushing.split = input.idle_cores;
        let in_work = self.in_work();
        let room = self.room().min(input.at_most);
        let had_output = self.pipeline.pending_bytes();
        let arrived = Arrived { room, shared: input.shared, requests };
        let bytes = self.reading(now, effects, arrived, |pipeline, tail| {
            let bytes = pipeline.read(input.bytes, now, tail);
            pipeline.read_complete(now, tail);
            bytes
        });
        let has_frames = requests.len() >= room && bytes < input.bytes.len();
        let left = input.bytes.get(bytes..).unwrap_or_default();
        let needed = if has_frames { 0 } else { self.pipeline.needed(left) };
        if !requests.is_empty() || !left.is_empty() {
            self.stay(now);
        }
        if !requests.is_empty() {
            // The next look is due at once. If a method holds this task, the watchdog sees it by
            // that, whether or not a timer runs.
            self.driver.runs_until(now);
        }
        if self.pipeline.pending_bytes() > had_output {
            // Pongs and the like leave now, ahead of anything that a request may take.
            effects.flush = Some(now);
        }
        (Consumed { bytes, needed, has_frames }, in_work)
    }

    /// Takes in frames that handlers sent to the tail while nothing was being read.
    pub(in crate::connection) fn deliver(
        &mut self,
        inbox: Vec<Frame<'static>>,
        requests: &mut Vec<Frame<'static>>,
        now: Instant,
        effects: &mut Effects,
    ) -> InWork {
        let in_work = self.in_work();
        let arrived = Arrived { room: usize::MAX, shared: None, requests };
        self.reading(now, effects, arrived, |_, tail| {
            inbox.into_iter().for_each(|frame| tail.read(frame));
        });
        in_work
    }

    /// Bytes came that are no whole frame yet: the peer is alive.
    pub(in crate::connection) fn partly_read(&mut self, now: Instant) {
        self.stay(now);
        self.pipeline(|pipeline, tail| pipeline.read_complete(now, tail));
    }

    #[inline]
    fn in_work(&self) -> InWork {
        InWork {
            requests: self.work.len(),
            overloaded: self.is_overloaded(),
            split: self.flushing.split,
        }
    }

    /// More is in work than a client was told it may have.
    #[inline]
    pub(super) fn is_overloaded(&self) -> bool {
        self.work.len() > self.settings.max_concurrent_requests
    }

    /// How many more requests may be taken now.
    fn room(&self) -> usize {
        if !self.streams.is_empty() {
            return MAX_REQUESTS;
        }
        let max = self.settings.max_concurrent_requests;
        max.saturating_add(1).saturating_sub(self.work.len()).min(MAX_REQUESTS)
    }

    /// Runs the pipeline with a tail that takes in what comes out of it.
    #[inline]
    fn reading<'a, R>(
        &mut self,
        now: Instant,
        effects: &mut Effects,
        arrived: Arrived<'_, 'a>,
        run: impl FnOnce(&mut Pipeline, &mut ChannelTail<'_, 'a>) -> R,
    ) -> R {
        let Self { pipeline, in_flight, work, streams, lifecycle, peer, settings, .. } = self;
        let mut tail = ChannelTail::Reading(Reading {
            in_flight,
            work,
            streams,
            lifecycle,
            peer,
            side: settings.observer.side(),
            effects,
            arrived,
            replies: Vec::new(),
            fatal: None,
        });
        let result = run(pipeline, &mut tail);
        let ChannelTail::Reading(Reading { replies, fatal, .. }) = tail else { return result };
        let mut aside = ChannelTail::aside(&mut self.inbox);
        // A peer that does not read what it is told is told no more.
        if pipeline.is_writable() || fatal.is_some() {
            for reply in replies {
                // Losing one costs the peer some work, nothing else.
                let _ = pipeline.write(reply, now, &mut aside);
            }
        }
        if let Some(cause) = fatal {
            pipeline.close(cause, now, &mut aside);
        }
        result
    }
}
