//! The error of a connection that is lost.

use std::io;

use crate::error::RpcError;

pub(super) fn connection_lost(error: &io::Error) -> RpcError {
    RpcError::unavailable(format!("the connection was lost: {error}")).with_source(error)
}
