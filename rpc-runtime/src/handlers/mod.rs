//! The handlers that every pipeline has.

mod heartbeat;
mod idle;
mod refuse_unknown;

pub(crate) use heartbeat::SHORTEST_GRANTED;
pub use heartbeat::{Heartbeat, HeartbeatHandler, HeartbeatMode, HeartbeatState, HeartbeatStats};
pub use idle::{IdleEvent, IdleHandler, IdleKind};
pub use refuse_unknown::RefuseUnknown;
