use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Patterns {
    async fn tuple(&self, (a, b): (u8, u8)) -> Result<()>;
    async fn nameless(&self, _: u8) -> Result<()>;
    async fn mutable(&self, mut a: u8) -> Result<()>;
    async fn conditional(&self, #[cfg(unix)] a: u8) -> Result<()>;
}

fn main() {}
