//! The wire protocol: frames and what is in them. `docs/protocol.md` is the authority.
//!
//! Nothing here does I/O or reads a clock.

mod codec;
mod frame;
mod header;
mod hello;
pub(crate) mod payload;

pub use codec::{Codec, Decoded, FrameCodec};
pub use frame::{Body, Frame};
pub use header::{Flags, HEADER_LEN, Header, Kind, MAGIC, VERSION};
pub use hello::{Hello, HelloService};

/// Default limit of a frame's payload (metadata and arguments, or a result): 8 MiB, Dubbo's.
pub const DEFAULT_MAX_PAYLOAD: usize = 8 << 20;
