use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Generic {
    async fn any<T: Send>(&self, value: T) -> Result<()>;
    async fn sized<const N: usize>(&self, value: [u8; N]) -> Result<()>;
    async fn lifetime<'a>(&self, value: u8) -> Result<()>;
    async fn bounded(&self) -> Result<()>
    where
        Self: Sized;
}

fn main() {}
