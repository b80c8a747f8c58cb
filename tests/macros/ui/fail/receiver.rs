use std::sync::Arc;

use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Receivers {
    async fn by_value(self) -> Result<()>;
    async fn exclusive(&mut self) -> Result<()>;
    async fn shared(self: Arc<Self>) -> Result<()>;
    async fn none(name: String) -> Result<()>;
    async fn empty() -> Result<()>;
}

fn main() {}
