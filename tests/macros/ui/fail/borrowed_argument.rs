use std::borrow::Cow;

use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Borrowed {
    async fn text(&self, name: &str) -> Result<()>;
    async fn bytes(&self, first: u8, rest: &[u8]) -> Result<()>;
    async fn inside(&self, names: Option<&Vec<String>>) -> Result<()>;
    async fn constant(&self, name: &'static str) -> Result<()>;
    async fn owned_or_constant(&self, fine: Cow<'static, str>) -> Result<()>;
}

fn main() {}
