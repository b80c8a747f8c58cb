//! [`Exchange`]: one call on a channel, from its first poll to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;

use super::channel::Channel;
use super::clock::clock;
use super::flush_promise::FlushPromise;
use super::in_flight::{Completion, Removed};
use super::incoming_stream::IncomingStream;
use super::pump::pump;
use super::state::{Begun, CallError, Request, timed_out};
use super::streams::Outgoing;
use crate::call::{ReplyBody, Source};
use crate::metadata::Metadata;
use crate::protocol::payload::Form;
use crate::protocol::{Flags, Header};
use crate::status::Status;

/// What came back.
pub(crate) struct Reply {
    pub(crate) header: Header,
    pub(crate) body: ReplyBody,
    /// Boxed, since most replies have none.
    pub(crate) metadata: Option<Box<Metadata>>,
    /// The items that follow, if the result is a stream.
    pub(crate) stream: Option<IncomingStream>,
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
    ) -> Exchange<'c> {
        Exchange { channel: self, request, upload, uploading: None, id: 0, stage: Stage::Start }
    }
}

enum Stage<'c> {
    Start,
    /// Waits for room on the connection.
    Queued,
    /// Sent. With the promise to flush after one yield, in which other frames gather.
    Sent(Option<FlushPromise<'c>>),
    Done,
}

/// One call on a channel.
pub(crate) struct Exchange<'c> {
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

type Outcome = Poll<Result<Reply, CallError>>;

impl Future for Exchange<'_> {
    type Output = Result<Reply, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Outcome {
        let this = &mut *self;
        let outcome = match &mut this.stage {
            Stage::Start => this.start(cx.waker()),
            Stage::Queued => this.resume(cx.waker()),
            Stage::Sent(promise) => {
                drop(promise.take());
                match this.request.is_oneway() {
                    true => Poll::Ready(Ok(Reply::nothing())),
                    false => this.look(cx.waker()),
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

impl Exchange<'_> {
    /// Another channel may still have to take it.
    pub(crate) fn waits_to_be_sent(&self) -> bool {
        matches!(self.stage, Stage::Start | Stage::Queued)
    }

    /// Its id on this connection; 0 for one that has none, or not yet.
    pub(crate) fn id(&self) -> u64 {
        if self.request.is_oneway() { 0 } else { self.id }
    }

    fn start(&mut self, waker: &Waker) -> Outcome {
        let Self { channel, request, upload, .. } = self;
        let begun = channel
            .update(|state, effects| state.begin_call(request, upload.is_some(), waker, effects));
        match begun {
            Err(error) => Poll::Ready(Err(error)),
            Ok((id, begun)) => {
                self.id = id;
                self.begun(begun, waker)
            }
        }
    }

    fn resume(&mut self, waker: &Waker) -> Outcome {
        // Read anew: it may have waited.
        self.request.now = clock();
        let Self { channel, request, upload, id, .. } = self;
        let resumed = channel.update(|state, effects| {
            state.resume_call(*id, request, upload.is_some(), waker, effects)
        });
        match resumed {
            None => self.look(waker),
            Some(Err(error)) => Poll::Ready(Err(error)),
            Some(Ok(begun)) => self.begun(begun, waker),
        }
    }

    fn begun(&mut self, begun: Begun, waker: &Waker) -> Outcome {
        let Begun::Sent { promised, outgoing } = begun else {
            self.stage = Stage::Queued;
            return Poll::Pending;
        };
        self.stage = Stage::Sent(promised.then(|| {
            waker.wake_by_ref();
            FlushPromise::new(self.channel, self.request.now)
        }));
        if let Some(outgoing) = outgoing {
            self.send_items(outgoing);
        }
        match promised || !self.request.is_oneway() {
            true => Poll::Pending,
            false => Poll::Ready(Ok(Reply::nothing())),
        }
    }

    /// Sends the items that follow the request.
    fn send_items(&mut self, outgoing: Arc<Outgoing>) {
        let Some(source) = self.upload.take() else { return };
        let items = self.channel.sending(self.id, outgoing);
        let form = Form::of(self.request.header.flags);
        let task = tokio::spawn(pump(items, source, form));
        self.uploading = Some(AbortOnDrop(Some(task.abort_handle())));
    }

    /// Looks for the outcome.
    fn look(&mut self, waker: &Waker) -> Outcome {
        let Self { channel, request, id, .. } = self;
        let completion =
            channel.take(|state| state.poll_call(*id, waker, request.body.small_mut()));
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

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Start | Stage::Done) {
            return;
        }
        let now = clock();
        let removed = self.channel.update(|state, effects| state.drop_call(self.id, now, effects));
        if removed == Removed::Answered {
            // A stream that nobody will take tells its sender so when it is dropped.
            drop(self.channel.take_incoming(self.id));
        }
    }
}
