//! Connections that are ended because of what their peers do not do.

use rpc_registry::limited;

use crate::connection::channel::Channel;
use crate::error::RpcError;
use crate::observe::{CloseReason, ConnectionRefusal};
use crate::status::Status;

impl Channel {
    /// The peer has had its time and sent no whole frame.
    pub(super) fn fail_handshake(&self) {
        let timeout = self.settings().handshake_timeout.unwrap_or_default();
        let message = format!("no whole frame came within {timeout:?} (`handshake_timeout`)");
        limited!(warn, peer = %self.peer(), "connection closed: {message}");
        self.settings().observer.connection_refused(ConnectionRefusal::Handshake);
        self.fail(RpcError::new(Status::Timeout, message));
    }

    /// Closes the connection because the peer sends a frame below the minimum rate.
    pub(super) fn slow_sender(&self) {
        let why = RpcError::new(
            Status::Timeout,
            format!(
                "a frame that has begun arrives at less than {} bytes a second (`min_rate`)",
                self.settings().min_rate
            ),
        );
        limited!(warn, peer = %self.peer(), %why, "connection closed");
        self.settings().observer.connection_ended(CloseReason::SlowSender);
        self.fail(why);
    }

    /// Why a connection is closed whose peer does not read.
    pub(super) fn slow_reader(&self) -> RpcError {
        let cause = RpcError::unavailable(format!(
            "the peer reads too slowly: too few of the waiting bytes were read within {:?} \
             (`slow_reader_timeout`, `min_rate`)",
            self.settings().slow_reader_timeout
        ));
        self.settings().observer.connection_ended(CloseReason::SlowReader);
        limited!(warn, peer = %self.peer(), %cause, "connection closed");
        cause
    }
}
