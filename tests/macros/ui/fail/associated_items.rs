use rpc_runtime::{Result, rpc_service};

macro_rules! more {
    () => {};
}

#[rpc_service]
pub trait Associated {
    type Row;
    const LIMIT: usize;
    more!();
    async fn fine(&self) -> Result<()>;
}

fn main() {}
