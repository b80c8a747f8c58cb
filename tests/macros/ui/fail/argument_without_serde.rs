use rpc_runtime::{Result, rpc_service};

pub struct Row;

#[rpc_service]
pub trait Rows {
    async fn insert(&self, table: String, row: Row) -> Result<()>;
}

fn main() {}
