//! The driver: the one task that reads a connection's socket, and the one that waits for it.
//!
//! It also writes what the operating system did not take at first, wakes for deadlines, and ends
//! the connection. Everything it does is a function of the channel's state and what the socket has,
//! looked at in one order, so a wake-up never needs to say what it is for.
//!
//! It registers its waker before it looks at anything that others may change, so no change is
//! missed.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::busy::Busy;
use super::close::linger;
use super::flush::Rest;
use super::memory::ReadGate;
use super::pace::{Pace, least};
use super::read_buffer::{self, Input, Taken};
use super::state::State;
use super::state::tail::Arrived;
use super::timers::{Timers, earlier};
use super::{Channel, DUTY_GRACE, FRAME_WINDOW, clock, connection_lost, wake_all, watchdog};
use crate::error::RpcError;
use crate::pipeline::Tail;
use crate::protocol::Frame;
use crate::transport::Reader;

/// The requests that came together.
pub(crate) struct Batch<'a> {
    pub(crate) requests: Vec<Frame<'a>>,
    /// When they came.
    pub(crate) now: Instant,
    /// Requests of the connection that are in work already.
    pub(crate) in_work: usize,
    /// More is in work than there should be. Reading goes on then only while there are streams,
    /// whose items and credit come the same way.
    pub(crate) overloaded: bool,
    /// The answers are to leave in several writes.
    pub(crate) split: bool,
}

/// Takes the requests of a connection, outside of the lock. Dropped when the connection has ended.
pub(crate) trait RequestHandler: Send + 'static {
    /// Answers that are ready at once are appended; the driver flushes them. Returns the time.
    fn handle(&mut self, channel: &Arc<Channel>, batch: Batch<'_>, cx: &mut Context<'_>)
    -> Instant;

    /// Whether reading stops while too much is in work or waits to be written. An end that only
    /// calls must go on reading, or two congested ends would wait for each other.
    fn limits_reading(&self) -> bool;

    /// The connection rests: memory that is only kept for the next batch may go.
    fn shrink(&mut self) {}
}

/// Requests handled before another look at whether the answers still find room.
pub(super) const MAX_REQUESTS: usize = 128;
/// As many are handled at first, and twice as many each time while the answers find room: a few
/// small requests can ask for more than there is memory.
const FIRST_REQUESTS: usize = 8;
/// Batches handled before other tasks get their turn.
const MAX_BATCHES: usize = 16;
/// Maximum time of a turn of the driver, and of a batch that is polled in place. Checked between
/// batches, and between the requests of a batch.
pub(crate) const TURN: Duration = Duration::from_millis(1);

/// Runs a connection until it ends. If the future is dropped, polled or not, or a handler panics, it
/// ends as well.
pub(crate) fn run(
    channel: Arc<Channel>,
    reader: Box<dyn Reader>,
    handler: impl RequestHandler,
) -> impl Future<Output = ()> + Send {
    // Made at once: the task of this future may be dropped before it is polled.
    let close = CloseOnDrop(Arc::clone(&channel));
    let mut driver = Driver {
        timers: Timers::new(channel.settings.handshake_timeout),
        input: Input::new(channel.account.large_from()),
        channel,
        reader,
        handler,
        now: clock(),
        gate: ReadGate::default(),
        pace: Pace::default(),
        unread: false,
        at_once: FIRST_REQUESTS,
        busy: Busy::default(),
        rest: Rest::default(),
    };
    // The driver is moved in whole: what is first captured and then moved takes its room twice.
    async move {
        watchdog::watch(&driver.channel);
        driver.channel.flush(clock());
        let cause = poll_fn(|cx| driver.poll(cx)).await;
        let spoke_last = driver.rest.is_empty()
            && (cause.is_protocol() || driver.channel.lock().has_last_words());
        driver.channel.fail_calls(&cause);
        if spoke_last {
            // In a box: most connections end without, and all would have room for it.
            Box::pin(linger(&mut *driver.reader, &*driver.channel.writer)).await;
        }
        driver.channel.close(cause);
        drop(close);
    }
}

struct CloseOnDrop(Arc<Channel>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(RpcError::unavailable("the connection's task was ended"));
    }
}

struct Driver<H> {
    channel: Arc<Channel>,
    reader: Box<dyn Reader>,
    handler: H,
    /// The time, read once for all that one wake-up does before a user's code runs.
    now: Instant,
    input: Input,
    gate: ReadGate,
    /// Of the frame that is being read.
    pace: Pace,
    /// Requests to be handled before another look at the room for answers.
    at_once: usize,
    busy: Busy,
    /// Reading has stopped since all was read.
    unread: bool,
    /// What the operating system did not take. While not empty, the channel's `writing` is set.
    rest: Rest,
    timers: Timers,
}

/// What the driver found under the lock.
enum Turn {
    Read,
    Wait,
    End(RpcError),
}

impl<H: RequestHandler> Driver<H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RpcError> {
        self.now = clock();
        let until = self.now + TURN;
        let mut reading = true;
        // Once for each wake-up: a handler may leave its timer due.
        let mut timers_ran = false;
        for step in 0..MAX_BATCHES {
            let turn = self.look(cx);
            reading = matches!(turn, Turn::Read);
            match turn {
                Turn::End(cause) => return Poll::Ready(cause),
                Turn::Wait => {}
                Turn::Read => match self.poll_fill(cx) {
                    Poll::Ready(Ok(true)) => {
                        // What requests took is known. A lone batch without any costs no clock.
                        if !self.batch(cx) && step > 0 {
                            self.now = clock();
                        }
                        if self.now >= until {
                            break;
                        }
                        continue;
                    }
                    Poll::Ready(Ok(false)) => {
                        let closed = RpcError::unavailable("the peer closed the connection");
                        return Poll::Ready(self.channel.peer_error_or(closed));
                    }
                    Poll::Ready(Err(error)) => {
                        let lost = connection_lost(&error);
                        return Poll::Ready(self.channel.peer_error_or(lost));
                    }
                    // It may end now.
                    Poll::Pending if std::mem::take(&mut self.unread) => continue,
                    // All that has arrived was read.
                    Poll::Pending if self.timers.handshake_is_over(self.now) => {
                        self.channel.fail_handshake();
                        continue;
                    }
                    Poll::Pending if self.pace.is_slow(FRAME_WINDOW, self.now) => {
                        self.channel.slow_sender();
                        self.pace.end();
                        continue;
                    }
                    Poll::Pending => {}
                },
            }
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(cause)) => return Poll::Ready(cause),
                Poll::Pending => {}
            }
            if !timers_ran && self.run_handlers_timers(reading) {
                timers_ran = true;
                continue;
            }
            if self.timers.poll_due(cx).is_pending() {
                return Poll::Pending;
            }
            self.now = clock();
        }
        // A peer that sends without a pause does not keep this end from anything else.
        if let Poll::Ready(Err(cause)) = self.poll_write(cx) {
            return Poll::Ready(cause);
        }
        if !timers_ran {
            self.run_handlers_timers(reading);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Runs the timers of handlers that are due, once what has arrived was read, and says whether
    /// there were any.
    fn run_handlers_timers(&mut self, reading: bool) -> bool {
        let may_be_due = self.timers.may_judge(self.now);
        may_be_due && self.channel.lock().run_handlers_timers(self.now, reading)
    }

    /// Writes some of what the operating system did not take, if it takes it now.
    ///
    /// # Errors
    /// Why the connection is to end: it is lost, or the peer has taken nothing for too long. That is
    /// judged behind the attempt: this process may have been stopped, and the peer not.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        match self.channel.poll_rest(&mut self.rest, cx) {
            Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(false)) => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(connection_lost(&error))),
            Poll::Pending => {}
        }
        let limit = self.channel.settings.slow_reader_timeout;
        if self.rest.has_stalled(limit, self.now) {
            return Poll::Ready(Err(self.channel.slow_reader()));
        }
        Poll::Pending
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.input.poll_fill(&mut *self.reader, &self.channel.metrics, cx)
    }

    /// Registers for wake-ups, runs what is due, and says what is next.
    fn look(&mut self, cx: &mut Context<'_>) -> Turn {
        let now = self.now;
        let mut wakers = Vec::new();
        let mut core = self.channel.lock();
        match &mut core.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if let State::Closed(cause) = &core.state {
            return Turn::End(cause.clone());
        }
        if self.rest.is_empty() && !core.rest.is_empty() {
            self.rest = std::mem::take(&mut core.rest);
        }
        let inbox = core.run_deadlines(now, &mut wakers);
        if core.wake_waiting(&mut wakers) {
            // Another turn, behind the tasks that are woken now.
            cx.waker().wake_by_ref();
        }
        if let Some((header, credit)) = core.take_grant() {
            // Only a handler can refuse it, for a reason of its own.
            let _ = core.write(Frame::new(header, &credit), now);
        }
        let may_read = core
            .may_read(self.channel.settings.max_concurrent_requests, self.handler.limits_reading());
        let streams = !core.streams.is_empty();
        let always = !self.handler.limits_reading();
        let forced = streams || always;
        self.gate.settle(&mut core, &mut self.input, &mut wakers);
        let open =
            may_read && self.gate.is_open(&mut core, &self.input, forced, always, cx, &mut wakers);
        let streams = streams && !always;
        let starved = self.gate.is_starved(may_read, streams, now);
        let turn = match core.pipeline.closing().cloned() {
            Some(cause) => {
                if core.has_calls() || core.why_not_open().is_none() {
                    // Nothing is read any more, so no answer can come: nobody is to wait for what
                    // is still to be written, least of all if the peer takes nothing.
                    core.fail_calls(&cause, &mut wakers);
                }
                let must_close = self.timers.must_close(now);
                if core.is_flushed() || must_close { Turn::End(cause) } else { Turn::Wait }
            }
            // What came while nothing was read may be requests.
            None if core.may_end(now)
                && !(may_read && (self.unread || self.input.has_frames())) =>
            {
                Turn::End(core.announced_end())
            }
            None if open => Turn::Read,
            None => Turn::Wait,
        };
        self.unread |= matches!(turn, Turn::Wait);
        if !core.is_writable() {
            self.at_once = 1;
        }
        let reads = !matches!(turn, Turn::Wait);
        if reads && self.input.is_begun() && self.channel.settings.min_rate > 0 {
            self.pace.begin(now);
        } else {
            self.pace.end();
        }
        if self.timers.checks_closed(now, reads) && self.reader.is_closed(cx) {
            // Nobody waits for answers. What was sent before is read when there is room for it, and
            // then the end.
            core.work.cancel_all();
        }
        if self.timers.has_rested(now, || core.is_idle()) {
            core.shrink();
            self.input.rest();
            self.handler.shrink();
        }
        let broken_promise = core.duty_due.take_if(|due| *due <= now).is_some() && core.duty;
        if broken_promise && core.writing {
            // Whoever writes leaves what has gathered to the promise: look at that again.
            core.duty_due = Some(now + DUTY_GRACE);
        }
        let handlers = core.pipeline.poll_timeout();
        let relied_on = core.relied_on().filter(|_| handlers.is_none());
        let others = [
            core.in_flight.earliest(),
            handlers,
            self.timers.sign_of_life(now, relied_on),
            core.duty_due,
            core.leaves_at(),
            self.rest.stalls_at(self.channel.settings.slow_reader_timeout),
            self.pace.due(FRAME_WINDOW),
            self.gate.starves_at(),
            self.timers.handshake().filter(|_| reads),
        ];
        let next = others.iter().fold(None, |next, time| earlier(next, *time));
        core.armed = self.timers.arm(now, next);
        core.paused = !core.pipeline.auto_read();
        // Nobody has promised to flush what a timer or a handler wrote; or somebody has, long ago.
        let flush = core.pipeline.has_output() && !core.writing && (!core.duty || broken_promise);
        drop(core);
        wake_all(wakers);
        if let Some(level) = starved {
            self.gate.end_greediest(level);
        }
        let look_again = flush || !inbox.is_empty();
        if !inbox.is_empty() {
            self.deliver(inbox, cx);
        }
        if flush {
            self.channel.flush(now);
        }
        if look_again {
            return self.look(cx);
        }
        turn
    }

    /// Runs the input through the pipeline, then hands on the resulting requests. Returns whether
    /// there were any.
    fn batch(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.input.is_enough() {
            let least = least(self.channel.settings.min_rate, FRAME_WINDOW);
            self.pace.add(self.input.fresh(), least, self.now);
            self.channel.lock().partly_read(self.now);
            return false;
        }
        let input = self.input.take();
        let (batch, rest) = self.through_pipeline(&input);
        let requests = self.hand_on(batch, cx);
        self.input.put_back(input, rest);
        requests
    }

    /// Says whether there were requests; then, the time is new.
    #[inline]
    fn hand_on(&mut self, batch: Batch<'_>, cx: &mut Context<'_>) -> bool {
        if batch.requests.is_empty() {
            return false;
        }
        let begun = batch.now;
        self.now = self.handler.handle(&self.channel, batch, cx);
        self.channel.flush_unless_promised(self.now);
        // As many as are done in a turn: what is left over of it gets tasks, which costs more.
        if self.now < begun + TURN / 2 {
            self.at_once = self.at_once.saturating_mul(2).min(MAX_REQUESTS);
        } else if self.now > begun + TURN {
            self.at_once = (self.at_once / 2).max(1);
        }
        true
    }

    fn through_pipeline<'a>(&mut self, input: &'a Taken) -> (Batch<'a>, read_buffer::Rest) {
        let now = self.now;
        let mut requests = Vec::new();
        let mut wakers = Vec::new();
        self.timers.work();
        let split = self.busy.leaves_cores_idle(now);
        let mut core = self.channel.lock();
        core.split = split;
        let overloaded = core.is_overloaded(self.channel.settings.max_concurrent_requests);
        let in_work = core.work.len();
        let room = core.room(self.channel.settings.max_concurrent_requests).min(self.at_once);
        let had_output = core.pipeline.pending_bytes();
        let arrived = Arrived { room, shared: input.shared(), requests: &mut requests };
        let consumed = core.reading(now, &mut wakers, arrived, |pipeline, tail| {
            let consumed = pipeline.read(input, now, tail);
            pipeline.read_complete(now, tail);
            consumed
        });
        if consumed > 0 {
            self.timers.greeted();
            self.gate.consumed();
            self.pace.end();
        }
        let has_frames = requests.len() >= room && consumed < input.len();
        let left = input.get(consumed..).unwrap_or_default();
        let needed = if has_frames { 0 } else { core.pipeline.needed(left) };
        core.admit(&mut wakers);
        if !requests.is_empty() || !left.is_empty() {
            core.stay(now);
        }
        if !requests.is_empty() {
            // The next look is due at once. If a method holds this task, the watchdog sees it by that,
            // whether or not a timer runs.
            core.armed = Some(now);
        }
        // Pongs and the like leave now, ahead of anything that a request may take.
        let flush = core.pipeline.pending_bytes() > had_output;
        drop(core);
        wake_all(wakers);
        if flush {
            self.channel.flush(now);
        }
        let batch = Batch { requests, now, in_work, overloaded, split };
        (batch, read_buffer::Rest { consumed, needed, has_frames })
    }

    /// Hands on frames that handlers sent to the tail while nothing was being read.
    fn deliver(&mut self, inbox: Vec<Frame<'static>>, cx: &mut Context<'_>) {
        let now = self.now;
        let mut wakers = Vec::new();
        let mut requests = Vec::new();
        let mut core = self.channel.lock();
        let overloaded = core.is_overloaded(self.channel.settings.max_concurrent_requests);
        let arrived = Arrived { room: usize::MAX, shared: None, requests: &mut requests };
        core.reading(now, &mut wakers, arrived, |_, tail| {
            inbox.into_iter().for_each(|frame| tail.read(frame));
        });
        core.admit(&mut wakers);
        let (split, in_work) = (core.split, core.work.len());
        drop(core);
        wake_all(wakers);
        self.hand_on(Batch { requests, now, in_work, overloaded, split }, cx);
    }
}

impl Channel {
    /// Flushes, unless somebody has promised to.
    fn flush_unless_promised(&self, now: Instant) {
        let flush = {
            let core = self.lock();
            core.pipeline.has_output() && !core.duty
        };
        if flush {
            self.flush(now);
        }
    }

    /// Why the connection ended: what the peer said, if it said anything.
    fn peer_error_or(&self, error: RpcError) -> RpcError {
        self.lock().peer_error.take().unwrap_or(error)
    }

    /// Fails the calls under way; the connection may still be saying its last words.
    fn fail_calls(&self, cause: &RpcError) {
        let mut wakers = Vec::new();
        self.lock().fail_calls(cause, &mut wakers);
        wake_all(wakers);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use super::*;
    use crate::connection::ChannelSettings;
    use crate::protocol::{Header, Hello, Kind};
    use crate::transport::raw::pair;

    /// Its requests take so long each.
    struct Takes(Duration, Arc<AtomicUsize>);

    impl RequestHandler for Takes {
        fn handle(&mut self, _: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
            let requests = batch.requests.len();
            self.1.fetch_add(requests, Ordering::Relaxed);
            batch.now + self.0 * u32::try_from(requests).unwrap()
        }
        fn limits_reading(&self) -> bool {
            true
        }
    }

    /// The requests that are handled in each of the first turns, though more wait.
    async fn turns(each: Duration) -> Vec<usize> {
        let (transport, raw) = pair().await;
        let settings = ChannelSettings::default();
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        for id in 0..1_000 {
            raw.send_frame(Header { id, ..Header::new(Kind::Request) }, &[]);
        }
        let handled = Arc::<AtomicUsize>::default();
        let handler = Takes(each, Arc::clone(&handled));
        let mut driver = pin!(run(channel, reader, handler));
        let mut turn = || {
            assert!(driver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            handled.swap(0, Ordering::Relaxed)
        };
        (0..6).map(|_| turn()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_in_time_though_more_requests_wait() {
        assert_eq!(turns(Duration::from_micros(1)).await[0], 1_000);
        // The first batch is not known to be slow; those behind it are as small as they must be.
        let turns = turns(Duration::from_micros(600)).await;
        assert_eq!(turns[0], FIRST_REQUESTS);
        assert!(turns[4..].iter().all(|requests| (1..=2).contains(requests)), "{turns:?}");
    }
}
