//! The handlers that every pipeline has.

mod answer_pings;
mod idle;
mod refuse_unknown;

pub use answer_pings::AnswerPings;
pub use idle::{IdleEvent, IdleHandler, IdleKind};
pub use refuse_unknown::RefuseUnknown;
