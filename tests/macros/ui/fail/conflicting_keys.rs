use rpc_runtime::{Result, rpc_service};

#[rpc_service(group = "a", group = "b")]
pub trait Conflicts {
    #[rpc(inline, spawn)]
    async fn two_places(&self) -> Result<()>;
    #[rpc(timeout = "1s", timeout = "2s")]
    async fn two_timeouts(&self) -> Result<()>;
    #[rpc(oneway)]
    #[rpc(oneway)]
    async fn two_attributes(&self) -> Result<()>;
}

fn main() {}
