use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Import {
    async fn import(&self, rows: impl Iterator<Item = u8>) -> Result<u64>;
    async fn export(&self) -> Result<impl Iterator<Item = u8>>;
}

fn main() {}
