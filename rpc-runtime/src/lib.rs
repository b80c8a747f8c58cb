//! rpc-runtime
pub use rpc_macros as _;
pub mod error;
pub mod status;
pub mod context;
pub mod descriptor;
pub mod protocol;
mod buffer;
