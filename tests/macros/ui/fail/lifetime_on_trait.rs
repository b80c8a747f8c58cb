use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Lifetime<'a> {
    async fn fine(&self) -> Result<()>;
}

fn main() {}
