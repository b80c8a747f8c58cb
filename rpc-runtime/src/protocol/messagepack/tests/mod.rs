//! The decoder against rmp-serde, and against those who would have it take too much.

mod limits;
mod parity;
mod zoo;
