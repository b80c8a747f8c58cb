//! The handlers that every pipeline has.

mod answer_pings;
mod refuse_unknown;

pub use answer_pings::AnswerPings;
pub use refuse_unknown::RefuseUnknown;
