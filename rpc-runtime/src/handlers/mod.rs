//! The handlers in every pipeline.

mod heartbeat;
mod idle;
mod refuse_unknown;

pub(crate) use heartbeat::MIN_REQUESTED_INTERVAL;
pub use heartbeat::{Heartbeat, HeartbeatHandler, HeartbeatMode, HeartbeatState, HeartbeatStats};
pub use idle::{IdleEvent, IdleHandler, IdleKind};
pub use refuse_unknown::RefuseUnknown;
