use rpc_runtime::rpc_service;

#[rpc_service]
pub trait NoResult {
    async fn nothing(&self);
    async fn unit(&self) -> ();
    async fn pair(&self) -> (u8, String);
    async fn array(&self) -> [u8; 4];
}

fn main() {}
