//! The errors that a peer sends.

use crate::error::RpcError;
use crate::protocol::{Flags, Header, payload};
use crate::status::Status;

/// The error that a peer sent in a response or an error frame.
pub(crate) fn read_error(header: &Header, body: &[u8]) -> RpcError {
    let status = Status::from_wire(header.status);
    let error = match payload::decode::<RpcError>(body) {
        Ok(error) if error.status() == status => error,
        Ok(error) => RpcError::new(status, error.message()),
        Err(_) => {
            RpcError::new(status, format!("the peer answered \"{status}\" without saying more"))
        }
    };
    if header.flags.contains(Flags::UNEXECUTED) { error.unexecuted() } else { error }
}
