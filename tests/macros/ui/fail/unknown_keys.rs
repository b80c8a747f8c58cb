use rpc_runtime::{Result, rpc_service};

#[rpc_service(verison = "1.0.0", retries = 3)]
pub trait Keys {
    #[rpc(idempotant, one_way, cache)]
    async fn method(&self) -> Result<()>;
    #[rpc(default)]
    async fn default_above(&self, limit: u32) -> Result<()>;
    async fn argument(&self, #[rpc(defualt)] a: u8, #[rpc(timeout = "1s")] b: u8) -> Result<()>;
}

fn main() {}
