use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Reserved {
    async fn with_timeout(&self, ms: u64) -> Result<()>;
    async fn with_metadata(&self) -> Result<()>;
    async fn with_encoding(&self) -> Result<()>;
    async fn with_wait_for_ready(&self) -> Result<()>;
}

fn main() {}
