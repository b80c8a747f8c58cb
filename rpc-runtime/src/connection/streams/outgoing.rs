//! [`Outgoing`]: the credit of a stream that this end sends.

use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use super::cost::{WINDOW, cost, locked};
use crate::error::RpcError;
use crate::status::Status;

/// The credit of the sending end.
pub(in crate::connection) struct Outgoing(Mutex<Credit>);

struct Credit {
    bytes: i64,
    stopped: Option<RpcError>,
    waker: Option<Waker>,
}

impl Outgoing {
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Credit { bytes: WINDOW as i64, stopped: None, waker: None })))
    }

    /// One whose items nobody wants.
    pub(in crate::connection) fn stopped(cause: RpcError) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Credit { bytes: 0, stopped: Some(cause), waker: None })))
    }

    /// One whose receiver has gone.
    pub(in crate::connection) fn unwanted() -> Arc<Self> {
        Self::stopped(receiver_gone())
    }

    /// Ready with credit; an error when no items will be wanted any more. `waker` is woken also by
    /// a stop that comes while there is credit.
    pub(in crate::connection) fn poll_credit(&self, waker: &Waker) -> Poll<Result<(), RpcError>> {
        let mut credit = locked(&self.0);
        if let Some(cause) = &credit.stopped {
            return Poll::Ready(Err(cause.clone()));
        }
        credit.waker = Some(waker.clone());
        if credit.bytes > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Uses up credit for an item. One item may take it below 0.
    pub(in crate::connection) fn spend(&self, item: usize) {
        let mut credit = locked(&self.0);
        credit.bytes = credit.bytes.saturating_sub(i64::try_from(cost(item)).unwrap_or(i64::MAX));
    }

    pub(super) fn grant(&self, bytes: u32) -> Option<Waker> {
        let mut credit = locked(&self.0);
        credit.bytes = credit.bytes.saturating_add(i64::from(bytes));
        credit.waker.take()
    }

    pub(super) fn stop(&self, cause: RpcError) -> Option<Waker> {
        let mut credit = locked(&self.0);
        credit.stopped.get_or_insert(cause);
        credit.waker.take()
    }
}

pub(super) fn receiver_gone() -> RpcError {
    RpcError::new(Status::Cancelled, "the receiver has gone")
}
