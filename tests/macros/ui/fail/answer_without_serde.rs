use rpc_runtime::{Result, rpc_service};

pub struct Row;

#[rpc_service]
pub trait Rows {
    async fn first(&self, table: String) -> Result<Row>;
}

fn main() {}
