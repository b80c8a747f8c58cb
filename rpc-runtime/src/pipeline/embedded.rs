//! [`EmbeddedChannel`]: a pipeline with a frozen clock and no socket, for tests.

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Change, Pipeline, Tail, Watermarks};
use crate::error::RpcError;
use crate::protocol::{Codec, DEFAULT_MAX_PAYLOAD, Decoded, Frame, FrameCodec, Header, Output};

/// A pipeline with a frozen clock and no socket, Netty's `EmbeddedChannel`.
///
/// Write bytes or frames, read the output of either end, and advance the time in one step.
///
/// ```
/// use std::time::{Duration, Instant};
/// use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, EmbeddedChannel, Flow, Handled};
/// use rpc_runtime::protocol::{Frame, Kind};
///
/// struct Echo;
/// impl ChannelHandler for Echo {
///     fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
///         ctx.write(frame.clone().into_owned());
///         Ok(Flow::Stop)
///     }
/// }
///
/// let mut channel = EmbeddedChannel::new(Instant::now());
/// channel.change(Change::add_last("echo", Echo))?;
/// channel.write_inbound(Frame::of_kind(Kind::Ping));
/// assert_eq!(channel.read_outbound(), Some(Frame::of_kind(Kind::Ping)));
/// assert_eq!(channel.read_inbound(), None);
/// # Ok::<(), rpc_runtime::RpcError>(())
/// ```
pub struct EmbeddedChannel {
    pipeline: Pipeline,
    now: Instant,
    tail: RecordingTail,
    input: Vec<u8>,
    output: Vec<u8>,
    decoder: FrameCodec,
}

#[derive(Default)]
struct RecordingTail {
    frames: VecDeque<Frame<'static>>,
    events: VecDeque<Box<dyn Any + Send>>,
    failed_writes: VecDeque<(Header, RpcError)>,
}

impl<'a> Tail<'a> for RecordingTail {
    fn read(&mut self, frame: Frame<'a>) {
        self.frames.push_back(frame.into_owned());
    }

    fn user_event(&mut self, event: Box<dyn Any + Send>) {
        self.events.push_back(event);
    }

    fn write_failed(&mut self, header: &Header, error: RpcError) {
        self.failed_writes.push_back((*header, error));
    }
}

impl EmbeddedChannel {
    /// An open channel without handlers, at the time `now`.
    pub fn new(now: Instant) -> Self {
        Self::with_codec(now, FrameCodec::new(DEFAULT_MAX_PAYLOAD), Watermarks::default())
    }

    /// An open channel with this codec and these watermarks.
    pub fn with_codec(now: Instant, codec: impl Codec, watermarks: Watermarks) -> Self {
        Self {
            pipeline: Pipeline::new(codec, watermarks),
            now,
            tail: RecordingTail::default(),
            input: Vec::new(),
            output: Vec::new(),
            decoder: FrameCodec::new(u32::MAX as usize),
        }
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The current time of the channel.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Adds, removes or replaces a handler; see [`Pipeline::change`].
    ///
    /// # Errors
    /// Those of [`Pipeline::change`].
    pub fn change(&mut self, change: Change) -> Result<(), RpcError> {
        self.pipeline.change(change, self.now, &mut self.tail)
    }

    /// Reports that the connection is open.
    pub fn active(&mut self) {
        self.pipeline.channel_active(self.now, &mut self.tail);
    }

    /// Reports that the connection is closed for the reason `cause`.
    pub fn inactive(&mut self, cause: &RpcError) {
        self.pipeline.channel_inactive(cause, self.now, &mut self.tail);
    }

    /// Reads bytes, all in one batch.
    pub fn write_inbound_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let consumed = self.pipeline.read(&input, self.now, &mut self.tail);
        self.pipeline.read_complete(self.now, &mut self.tail);
        self.input.extend_from_slice(input.get(consumed..).unwrap_or_default());
    }

    /// Reads a frame, in a separate batch. It bypasses the codec.
    pub fn write_inbound(&mut self, frame: Frame<'_>) {
        self.pipeline.fire_read(0, frame.into_owned(), self.now, &mut self.tail);
        self.pipeline.read_complete(self.now, &mut self.tail);
    }

    /// Passes an event to the handlers, starting at the head.
    pub fn write_user_event(&mut self, event: impl Any + Send) {
        self.pipeline.user_event(Box::new(event), self.now, &mut self.tail);
    }

    /// Writes a frame, starting at the tail.
    ///
    /// # Errors
    /// Those of [`Pipeline::write`].
    pub fn write_outbound(&mut self, frame: Frame<'_>) -> Result<(), RpcError> {
        self.pipeline.write(frame, self.now, &mut self.tail)
    }

    /// Closes the channel, starting at the tail.
    pub fn close(&mut self, cause: RpcError) {
        self.pipeline.close(cause, self.now, &mut self.tail);
    }

    /// The next frame that reached the tail.
    pub fn read_inbound(&mut self) -> Option<Frame<'static>> {
        self.tail.frames.pop_front()
    }

    /// The next event that reached the tail.
    pub fn read_user_event(&mut self) -> Option<Box<dyn Any + Send>> {
        self.tail.events.pop_front()
    }

    /// The next failed write of those that handlers requested.
    pub fn read_failed_write(&mut self) -> Option<(Header, RpcError)> {
        self.tail.failed_writes.pop_front()
    }

    /// The next frame that reached the head. Its bytes count as written.
    pub fn read_outbound(&mut self) -> Option<Frame<'static>> {
        let bytes = self.take_output();
        self.output.extend_from_slice(&bytes);
        let output = std::mem::take(&mut self.output);
        let (frame, consumed) = match self.decoder.decode(&output) {
            Ok(Decoded::Frame { frame, consumed }) => (Some(frame.into_owned()), consumed),
            _ => (None, 0),
        };
        self.output.extend_from_slice(output.get(consumed..).unwrap_or_default());
        // The codec sets the length. Without it, tests can compare the frame with the one they
        // wrote.
        frame.map(|frame| Frame { header: Header { length: 0, ..frame.header }, ..frame })
    }

    /// The bytes that reached the head. They count as written.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.pipeline.has_output() {
            bytes.extend(self.pipeline.take_output(Output::default()).to_vec());
        }
        if !bytes.is_empty() {
            self.pipeline.written(bytes.len(), self.now, &mut self.tail);
        }
        bytes
    }

    /// Advances the time. Timers run in the order in which they are due, each at its own time.
    pub fn advance_time_by(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.pipeline.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.pipeline.handle_timeout(self.now, &mut self.tail);
            if self.pipeline.poll_timeout() == Some(due) {
                // The handler did not set its timer again; the loop would not end.
                break;
            }
        }
        self.now = end;
    }
}
