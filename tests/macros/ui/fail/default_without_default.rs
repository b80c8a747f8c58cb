use rpc_runtime::{Result, rpc_service};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Limit(u32);

#[rpc_service]
pub trait Rows {
    async fn list(&self, #[rpc(default)] limit: Limit) -> Result<()>;
}

fn main() {}
