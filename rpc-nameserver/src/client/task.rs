//! [`Task`]: a change that must be sent to a server.

use rpc_registry::RegistryError;
use tokio::sync::mpsc;

use crate::contract::Change;

/// Service and id.
pub(super) type Key = (String, String);

/// The result of sending a task to a server.
pub(super) enum TaskResult {
    Accepted,
    /// The server refuses it, and will refuse it again.
    Refused(RegistryError),
    /// The task could not be sent.
    Failed(RegistryError),
}

/// Receives the result of a task. Dropped without a result if the task was not sent, so that no
/// caller waits for a dropped task.
pub(super) type ResultSender = mpsc::UnboundedSender<TaskResult>;

/// A change that must be sent to a server.
pub(super) struct Task {
    pub(super) key: Key,
    /// The number of the registration.
    pub(super) number: u64,
    pub(super) change: Change,
    pub(super) result_sender: Option<ResultSender>,
}
