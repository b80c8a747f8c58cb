//! One call on a channel, from its first poll to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::task::AbortHandle;

use super::{Channel, Core, DUTY_GRACE, FlushDuty, IncomingStream, State, clock, pump, wake_all};
use crate::call::{ReplyBody, Source};
use crate::connection::in_flight::{Completion, Removed};
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::protocol::payload::Form;
use crate::protocol::{Flags, Frame, Header, Kind, Output};
use crate::status::Status;

/// What is to be sent: a header without id and length, and the encoded payload.
pub(crate) struct Request<'r> {
    pub(crate) header: Header,
    /// The answer's payload takes its place.
    pub(crate) body: &'r mut Output,
    pub(crate) deadline: Instant,
    /// The time just now.
    pub(crate) now: Instant,
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) header: Header,
    pub(crate) body: ReplyBody,
    /// Boxed, since most replies have none.
    pub(crate) metadata: Option<Box<Metadata>>,
    /// The items that follow, if the result is a stream.
    pub(crate) stream: Option<IncomingStream>,
}

pub(crate) enum CallError {
    /// The channel takes no new calls. Nothing was sent; another channel may do.
    NotOpen(RpcError),
    Failed(RpcError),
}

impl Channel {
    /// Sends a request and waits for its answer; a oneway request, until it is handed over. Dropping
    /// the future cancels the call and tells the peer.
    ///
    /// The items of `upload` follow the request; it is taken when that is sent.
    pub(crate) fn call<'c>(
        self: &'c Arc<Self>,
        request: Request<'c>,
        upload: &'c mut Option<Box<dyn Source>>,
    ) -> Call<'c> {
        Call { channel: self, request, upload, uploading: None, id: 0, stage: Stage::Start }
    }
}

enum Stage<'c> {
    Start,
    /// Waits for room on the connection.
    Queued,
    /// Sent. With the duty to flush, after one yield in which other frames gather.
    Sent(Option<FlushDuty<'c>>),
    Done,
}

/// What a caller owes the channel for the frame it has just appended.
enum Owed {
    /// Somebody else flushes.
    Nothing,
    /// Flush at once: no other call is under way that could add to the same write, or so many have
    /// that the peer is to begin.
    FlushNow,
    /// Flush after the others had their turn.
    FlushLater,
}

pub(crate) struct Call<'c> {
    channel: &'c Arc<Channel>,
    request: Request<'c>,
    upload: &'c mut Option<Box<dyn Source>>,
    uploading: Option<AbortOnDrop>,
    id: u64,
    stage: Stage<'c>,
}

struct AbortOnDrop(Option<AbortHandle>);

impl AbortOnDrop {
    fn detach(&mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|task| task.abort());
    }
}

impl Future for Call<'_> {
    type Output = Result<Reply, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let outcome = match &mut this.stage {
            Stage::Start => this.start(cx.waker()),
            Stage::Queued => this.start_if_admitted(cx.waker()),
            Stage::Sent(duty) => {
                drop(duty.take());
                match this.is_oneway() {
                    true => Poll::Ready(Ok(Reply::nothing())),
                    false => this.look(this.channel.lock(), cx.waker()),
                }
            }
            Stage::Done => return Poll::Pending,
        };
        if outcome.is_ready() {
            this.stage = Stage::Done;
        }
        outcome
    }
}

impl Call<'_> {
    /// Another channel may still have to take it.
    pub(crate) fn waits_to_be_sent(&self) -> bool {
        matches!(self.stage, Stage::Start | Stage::Queued)
    }

    /// Its id on this connection; 0 for one that has none, or not yet.
    pub(crate) fn id(&self) -> u64 {
        if self.is_oneway() { 0 } else { self.id }
    }

    fn is_oneway(&self) -> bool {
        self.request.header.kind == Kind::Oneway
    }

    /// Enters the call into the table and, if there is room, its frame into the output.
    fn start(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        let now = self.request.now;
        if self.request.deadline <= now {
            return Poll::Ready(Err(CallError::Failed(timed_out(false))));
        }
        let channel = self.channel;
        let mut core = channel.lock();
        if let Err(error) = core.accepts(self.request.body.len()) {
            return Poll::Ready(Err(error));
        }
        if core.is_writable() && core.in_flight.has_room() {
            self.id = core.in_flight.insert(waker.clone(), self.request.deadline);
            return self.send(core, waker, now);
        }
        let bytes = self.request.body.len();
        self.id = core.in_flight.enqueue(waker.clone(), bytes, self.request.deadline);
        self.stage = Stage::Queued;
        let kick = core.driver_if_needed();
        drop(core);
        kick.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    fn start_if_admitted(&mut self, waker: &Waker) -> Poll<Result<Reply, CallError>> {
        let now = clock();
        let channel = self.channel;
        let mut core = channel.lock();
        if !core.in_flight.start_if_admitted(self.id, waker) {
            return self.look(core, waker);
        }
        let refused = match core.accepts(self.request.body.len()) {
            Ok(()) if self.request.deadline > now => return self.send(core, waker, now),
            Ok(()) => CallError::Failed(timed_out(false)),
            Err(error) => error,
        };
        let (_, mut wakers) = core.give_up(self.id);
        wakers.extend(core.driver_if_needed());
        drop(core);
        wake_all(wakers);
        Poll::Ready(Err(refused))
    }

    /// Writes the frame of a call that is in the table as sent.
    fn send(
        &mut self,
        mut core: MutexGuard<'_, Core>,
        waker: &Waker,
        now: Instant,
    ) -> Poll<Result<Reply, CallError>> {
        let id = if self.is_oneway() { 0 } else { self.id };
        let deadline_ms = remaining_ms(self.request.deadline, now);
        let header = Header { id, deadline_ms, ..self.request.header };
        let written = core.write(Frame::taking(header, self.request.body), now);
        let alone = core.in_flight.sent() == 1;
        if let Err(error) = written {
            let (_, mut wakers) = core.give_up(self.id);
            // What made it fail may concern the whole connection.
            wakers.extend(core.driver_if_needed());
            drop(core);
            wake_all(wakers);
            return Poll::Ready(Err(CallError::Failed(error.unexecuted())));
        }
        if self.is_oneway() {
            core.in_flight.remove(self.id);
        }
        let enough = self.channel.settings.flush_after(core.in_flight.sent(), core.split);
        let owed = match core.claim_duty() {
            _ if core.has_gathered(enough) => Owed::FlushNow,
            false => Owed::Nothing,
            true if alone => Owed::FlushNow,
            true => {
                // One look for all the promises of that time: it costs a busy channel next to
                // nothing, and an idle one nothing.
                core.duty_due.get_or_insert(now + DUTY_GRACE);
                Owed::FlushLater
            }
        };
        let mut wakers = Vec::new();
        let upload = self.upload.take();
        let upload = upload.map(|source| (source, core.open_outgoing(self.id, &mut wakers)));
        wakers.extend(core.driver_if_needed());
        drop(core);
        wake_all(wakers);
        self.stage = Stage::Sent(match owed {
            Owed::Nothing => None,
            Owed::FlushNow => {
                drop(FlushDuty(self.channel, now));
                None
            }
            Owed::FlushLater => {
                waker.wake_by_ref();
                Some(FlushDuty(self.channel, now))
            }
        });
        if let Some((source, outgoing)) = upload {
            let items = self.channel.sending(self.id, outgoing);
            let form = Form::of(self.request.header.flags);
            let task = tokio::spawn(pump(items, source, form));
            self.uploading = Some(AbortOnDrop(Some(task.abort_handle())));
        }
        match self.stage {
            Stage::Sent(None) if self.is_oneway() => Poll::Ready(Ok(Reply::nothing())),
            _ => Poll::Pending,
        }
    }

    /// Looks for the outcome.
    fn look(
        &mut self,
        mut core: MutexGuard<'_, Core>,
        waker: &Waker,
    ) -> Poll<Result<Reply, CallError>> {
        let completion = core.in_flight.poll(self.id, waker, self.request.body.small_mut());
        if core.account.is_charged() {
            let mut wakers = Vec::new();
            core.settle(&mut wakers);
            drop(core);
            wake_all(wakers);
        } else {
            drop(core);
        }
        match completion {
            None => Poll::Pending,
            Some(Completion::Answered(header, whole)) => {
                // The provider may go on taking items after its answer. If not, it says so.
                if let Some(uploading) = &mut self.uploading {
                    uploading.detach();
                }
                let mut body = match whole {
                    Some(body) => ReplyBody::Whole(body),
                    None => ReplyBody::Pooled(std::mem::take(self.request.body.small_mut())),
                };
                // Taken in any case: dropping it tells the sender to stop.
                let stream = self.channel.incoming_stream(&header);
                let metadata = match header.flags.contains(Flags::METADATA) {
                    true => body.take_metadata(header.flags).map_err(CallError::Failed),
                    false => Ok(None),
                };
                let reply = |metadata| Reply { header, body, metadata, stream };
                Poll::Ready(metadata.map(reply))
            }
            Some(Completion::TimedOut { sent }) => {
                Poll::Ready(Err(CallError::Failed(timed_out(sent))))
            }
            Some(Completion::Failed { error, sent: true }) => {
                Poll::Ready(Err(CallError::Failed(error)))
            }
            Some(Completion::Failed { error, sent: false }) => {
                Poll::Ready(Err(CallError::NotOpen(error.unexecuted())))
            }
        }
    }
}

impl Core {
    /// A call does not go on. Its room is the next one's, and the connection may be waiting for its
    /// last call.
    fn give_up(&mut self, id: u64) -> (Removed, Vec<Waker>) {
        let mut wakers = Vec::new();
        let removed = self.in_flight.remove(id);
        self.settle(&mut wakers);
        self.admit(&mut wakers);
        (removed, wakers)
    }

    /// Whether a new call with a payload of `bytes` bytes may be sent here.
    fn accepts(&self, bytes: usize) -> Result<(), CallError> {
        if let Some(error) = self.why_not_open() {
            return Err(CallError::NotOpen(error.unexecuted()));
        }
        self.fits(bytes).map_err(CallError::Failed)
    }

    /// Whether the peer takes a payload of `bytes` bytes, as far as it has said.
    pub(super) fn fits(&self, bytes: usize) -> Result<(), RpcError> {
        let limit = self.peer_hello.as_ref().map_or(0, |hello| hello.max_payload as usize);
        if limit == 0 || bytes <= limit {
            return Ok(());
        }
        let message = format!("payload of {bytes} bytes is over the peer's limit of {limit} bytes");
        Err(RpcError::new(Status::TooLarge, message).unexecuted())
    }
}

impl Reply {
    /// The reply of a call that has none.
    fn nothing() -> Self {
        Self {
            header: Header::response(0, Status::Ok),
            body: ReplyBody::Pooled(Vec::new()),
            metadata: None,
            stream: None,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Start | Stage::Done) {
            return;
        }
        let mut core = self.channel.lock();
        let (removed, mut wakers) = core.give_up(self.id);
        let now = clock();
        let mut claimed = false;
        if removed == Removed::Sent && !matches!(core.state, State::Closed(_)) {
            let cancel = Header { id: self.id, ..Header::new(Kind::Cancel) };
            // Not being able to tell the peer costs it some work, nothing else.
            claimed = core.write(Frame::bare(cancel), now).is_ok() && core.claim_duty();
        }
        wakers.extend(core.driver_if_needed());
        drop(core);
        wake_all(wakers);
        if claimed {
            drop(FlushDuty(self.channel, now));
        }
        if removed == Removed::Answered {
            // A stream that nobody will take tells its sender so when it is dropped.
            drop(self.channel.take_incoming(self.id));
        }
    }
}

fn timed_out(sent: bool) -> RpcError {
    if sent {
        RpcError::timeout("the deadline passed; the request was sent and not answered in time")
    } else {
        RpcError::timeout("the deadline passed before the request could be sent").unexecuted()
    }
}

/// What is left of the deadline as it travels: whole milliseconds, rounded up; 0 would mean "none".
fn remaining_ms(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    let rounded_up = left.as_nanos().div_ceil(1_000_000);
    u32::try_from(rounded_up).unwrap_or(u32::MAX).max(1)
}
