//! The wire protocol: frames and what is in them. `docs/protocol.md` is the authority.
//!
//! Nothing here does I/O or reads a clock.

mod agreement;
pub(crate) mod blob;
mod codec;
mod defaulted;
mod frame;
mod header;
mod hello;
pub(crate) mod messagepack;
mod output;
pub(crate) mod payload;
mod positional;

use crate::error::RpcError;

pub(crate) use agreement::Agreement;
pub use blob::Blob;
pub(crate) use blob::KEPT_WHOLE;
pub use codec::{Codec, Decoded, FrameCodec};
pub use frame::{Body, Frame, Pieces};
pub use header::{DEFAULT_MAX_PAYLOAD, Flags, HEADER_LEN, Header, Kind, MAGIC, VERSION};
pub(crate) use hello::REPLY_METADATA;
pub use hello::{Hello, HelloService};
pub use messagepack::{DecodeLimits, decode};
pub use output::Output;

/// The header and payload of a response that says why a call failed.
pub(crate) fn error_answer(id: u64, error: &RpcError) -> (Header, Vec<u8>) {
    let mut header = Header::response(id, error.status());
    if error.is_unexecuted() {
        header.flags = Flags::UNEXECUTED;
    }
    let mut body = Vec::new();
    // Strings and numbers always encode; the status says enough without them.
    let _ = payload::encode(error, payload::Form::Named, &mut body);
    (header, body)
}

/// The frame that says that the frame or call `id` came to nothing, or with id 0, why the sender
/// is about to close.
pub(crate) fn error_frame(id: u64, error: &RpcError) -> Frame<'static> {
    let (header, body) = error_answer(id, error);
    Frame { header: Header { kind: Kind::Error, ..header }, body: Body::Owned(body.into()) }
}
