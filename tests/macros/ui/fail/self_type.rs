use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Selfish {
    async fn merge(&self, other: Self) -> Result<()>;
    async fn copy(&self) -> Result<Vec<Self>>;
}

fn main() {}
