use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Twins {
    async fn first(&self) -> Result<()>;
    #[rpc(name = "first")]
    async fn second(&self) -> Result<()>;
    #[rpc(name = "fourth")]
    async fn third(&self) -> Result<()>;
    async fn fourth(&self) -> Result<()>;
}

fn main() {}
