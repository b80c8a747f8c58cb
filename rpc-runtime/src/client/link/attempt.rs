//! [`Attempt`]: the making of one connection.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::connection::Channel;
use crate::error::RpcError;

/// What came of an attempt, once it is over.
pub(super) type Outcome = watch::Receiver<Option<Result<Arc<Channel>, RpcError>>>;

/// An attempt, as others see it. Dropping it gives the attempt up.
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

/// What settles an attempt: it gets the result, and returns what those who wait are told.
type Settle =
    Box<dyn FnOnce(Result<Arc<Channel>, RpcError>) -> Result<Arc<Channel>, RpcError> + Send>;

/// A connection attempt; if its task is dropped, those who wait for it are told.
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
            // Whoever waited gets this connection, even if it has ended again by now.
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
