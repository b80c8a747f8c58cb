//! The tokio runtime of a client or a server.

use crate::error::RpcError;

/// The tokio runtime that is running here: connections live in its tasks.
pub(crate) fn current_runtime() -> Result<tokio::runtime::Handle, RpcError> {
    let missing =
        |_| RpcError::invalid("there is no tokio runtime here: call it from `#[tokio::main]`, say");
    tokio::runtime::Handle::try_current().map_err(missing)
}
