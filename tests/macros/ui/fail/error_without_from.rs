use rpc_runtime::rpc_service;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub enum AccountError {
    Insufficient,
}

#[rpc_service]
pub trait Account {
    async fn add(&self, amount: i64) -> Result<i64, AccountError>;
}

fn main() {}
