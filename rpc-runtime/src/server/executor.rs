//! [`Executor`]: tasks and threads for requests that are not answered in place.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::large::LargeRequest;
use super::spawned_call::{self, Running, SpawnedCall};
use super::thread_pool::NoThread;
use super::threads::{NotRun, Threads};
use super::workers::InWork;
use crate::call::Source;
use crate::connection::Channel;
use crate::descriptor::Dispatch;
use crate::error::RpcError;
use crate::observe::{OwnedCall, RequestRefusal};
use crate::protocol::payload::Form;
use crate::protocol::{Header, Kind};
use crate::status::Status;

/// Runs the requests of one connection in tasks and threads.
pub(super) struct Executor {
    threads: Threads,
    /// Running requests of the connection, at most.
    in_work: usize,
}

impl Executor {
    pub(super) fn new(threads: Threads) -> Self {
        Self { threads, in_work: 0 }
    }

    pub(super) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Sets the number of running requests of the connection.
    pub(super) fn set_in_work(&mut self, requests: usize) {
        self.in_work = requests;
    }

    /// Checks whether another request may begin. `overloaded`: the connection has more running
    /// requests than its client was told.
    ///
    /// # Errors
    /// A limit is reached.
    #[inline]
    pub(super) fn admit(
        &self,
        channel: &Channel,
        overloaded: bool,
    ) -> Result<(), (RequestRefusal, RpcError)> {
        if self.threads.address().may_begin(self.in_work) && !overloaded {
            return Ok(());
        }
        Err(self.why_full(channel, overloaded))
    }

    #[cold]
    fn why_full(&self, channel: &Channel, overloaded: bool) -> (RequestRefusal, RpcError) {
        let (reason, message) = if overloaded {
            let limit = channel.settings().max_concurrent_requests;
            let message = format!(
                "this connection has more requests in work than its limit of {limit} \
                 (`max_concurrent_requests`)"
            );
            (RequestRefusal::ConnectionFull, message)
        } else {
            let limit = self.threads.address().workers().max_in_work();
            let message = format!(
                "the provider is near its limit of {limit} requests in work \
                 (`max_total_concurrent_requests`), and this connection or its address has its share"
            );
            (RequestRefusal::ServerFull, message)
        };
        (reason, RpcError::new(Status::Overloaded, message))
    }

    /// Registers a request that continues in a task, with the memory of its decoded arguments and of
    /// its metadata. `None` once the channel is closed, since its response has no receiver.
    fn begin(
        &mut self,
        channel: &Arc<Channel>,
        request: &Header,
        observed: OwnedCall,
        arguments: usize,
        metadata: usize,
    ) -> Option<SpawnedCall> {
        let bytes = arguments.max(request.length as usize).saturating_add(metadata);
        let work = channel.start_work(request.id, request.kind == Kind::Oneway, bytes)?;
        self.in_work += 1;
        let in_work = InWork::begin(self.threads.address());
        let channel = Arc::clone(channel);
        Some(SpawnedCall::new(channel, work, *request, observed, metadata, in_work))
    }

    /// Runs a call to its end, in a task or on a thread as `mode` says.
    pub(super) fn run(
        &mut self,
        channel: &Arc<Channel>,
        request: &Header,
        mode: Dispatch,
        observed: OwnedCall,
        running: Running,
    ) {
        let bytes = running.call.memory();
        let metadata = running.context.metadata_memory();
        let begun = self.begin(channel, request, observed, bytes, metadata);
        let Some(spawned) = begun else { return };
        let work = spawned.work();
        let task = match mode {
            Dispatch::Blocking => spawn(block_on(&self.threads, spawned, running)),
            _ => spawn(spawned_call::run(spawned, running)),
        };
        channel.set_abort(work, task);
    }

    /// Decodes the arguments of a large request, then runs its call as `mode` says.
    pub(super) fn decode_and_run(
        &mut self,
        channel: &Arc<Channel>,
        request: &Header,
        mode: Dispatch,
        observed: OwnedCall,
        large: LargeRequest,
    ) {
        let metadata = large.context.metadata_memory();
        let begun = self.begin(channel, request, observed, 0, metadata);
        let Some(spawned) = begun else { return };
        let work = spawned.work();
        let deadline = spawned.deadline(&large.context);
        let span = spawned.span().clone();
        let calling = Arc::clone(channel);
        let decode = move || span.in_scope(|| large.decode(&calling));
        // Queued here and not when the task is polled, to keep the order of the requests.
        let decoded = self.threads.decode(decode);
        let threads = self.threads.clone();
        let task = spawn(async move {
            let decoded = match deadline {
                Some(deadline) => {
                    let waited = tokio::time::timeout_at(deadline.into(), decoded).await;
                    waited.unwrap_or_else(|_| Err(spawned_call::expired()))
                }
                None => decoded.await,
            };
            let running = match decoded {
                Ok((running, request)) => {
                    let before = request.len();
                    // Not kept for as long as the call lasts.
                    request.recycle();
                    running.and_then(|running| {
                        // Blobs among the arguments may keep all of the payload.
                        spawned.arguments_take_from(before, running.call.memory())?;
                        Ok(running)
                    })
                }
                Err(error) => return spawned.fail(error).await,
            };
            match running {
                Ok(running) if mode == Dispatch::Blocking => {
                    block_on(&threads, spawned, running).await;
                }
                Ok(running) => spawned_call::run(spawned, running).await,
                Err(error) => spawned.fail(error).await,
            }
        });
        channel.set_abort(work, task);
    }

    /// Sends the items of a stream result whose response is being sent.
    pub(super) fn send_items(
        &mut self,
        channel: &Arc<Channel>,
        request: &Header,
        observed: OwnedCall,
        source: Box<dyn Source>,
    ) {
        let Some(spawned) = self.begin(channel, request, observed, 0, 0) else { return };
        let work = spawned.work();
        let task = spawn(spawned.send_items(source, Form::of(request.flags)));
        channel.set_abort(work, task);
    }
}

/// Runs a call on a thread for blocking methods.
fn block_on(
    threads: &Threads,
    spawned: SpawnedCall,
    running: Running,
) -> impl Future<Output = ()> + Send + use<> {
    let run = |(spawned, running)| spawned_call::run_after_waiting(spawned, running);
    let done = threads.block_on((spawned, running), run);
    async move {
        // A panic of the method is a result.
        if let Err(NotRun::NoThread((spawned, _))) = done.await {
            spawned.fail(NoThread.into()).await;
        }
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(task).abort_handle()
}
