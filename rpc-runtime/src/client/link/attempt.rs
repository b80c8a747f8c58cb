//! [`Attempt`]: one connection attempt.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::connection::Channel;
use crate::error::RpcError;

/// The outcome of an attempt, once it has ended.
pub(super) type Outcome = watch::Receiver<Option<Result<Arc<Channel>, RpcError>>>;

/// A handle to an attempt. Dropping it cancels the attempt.
pub(super) struct AttemptHandle {
    outcome: Outcome,
    _wanted: oneshot::Sender<()>,
}

impl AttemptHandle {
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }
}

/// Waits for the end of an attempt. Cancel safe.
pub(super) async fn wait(mut outcome: Outcome) -> Result<Arc<Channel>, RpcError> {
    match outcome.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(given_up())),
        Err(_) => Err(given_up()),
    }
}

/// Records the result of an attempt, and returns the outcome for the waiting calls.
type Settle =
    Box<dyn FnOnce(Result<Arc<Channel>, RpcError>) -> Result<Arc<Channel>, RpcError> + Send>;

/// A connection attempt. If its task is dropped, the waiting calls get an error.
pub(super) struct Attempt {
    /// Until it is settled.
    settle: Option<Settle>,
    outcome: watch::Sender<Option<Result<Arc<Channel>, RpcError>>>,
    unwanted: oneshot::Receiver<()>,
}

impl Attempt {
    pub(super) fn new(settle: Settle) -> (Self, AttemptHandle) {
        let (outcome, seen) = watch::channel(None);
        let (_wanted, unwanted) = oneshot::channel();
        (Self { settle: Some(settle), outcome, unwanted }, AttemptHandle { outcome: seen, _wanted })
    }

    pub(super) async fn run(
        mut self,
        connect: impl Future<Output = Result<Arc<Channel>, RpcError>>,
    ) {
        let result = tokio::select! {
            result = connect => result,
            _ = &mut self.unwanted => Err(given_up()),
        };
        self.settle(result);
    }

    fn settle(&mut self, result: Result<Arc<Channel>, RpcError>) {
        if let Some(settle) = self.settle.take() {
            // Waiting calls get this connection, even if it has ended by now.
            self.outcome.send_replace(Some(settle(result)));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.settle(Err(given_up()));
    }
}

pub(super) fn given_up() -> RpcError {
    RpcError::unavailable("the connection attempt was given up").unexecuted()
}
