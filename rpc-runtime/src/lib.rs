//! rpc-runtime
pub use error::{Result, RpcError};
mod buffer;
pub mod context;
pub mod descriptor;
pub mod error;
pub mod pipeline;
pub mod protocol;
pub mod status;
