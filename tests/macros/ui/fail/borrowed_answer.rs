use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Borrowed {
    async fn text(&self) -> Result<&str>;
    async fn reference(&self) -> &Result<String>;
}

fn main() {}
