//! Names that the expansion uses too: of methods, of arguments, and of types in scope.

use rpc_runtime::rpc_service;

mod text {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct String;
    pub type Result = ::std::result::Result<String, rpc_runtime::RpcError>;
}
use text::{Result, String};

// Each of these would break code that relied on what is in scope.
#[allow(dead_code, non_camel_case_types)]
mod hostile {
    pub struct Client;
    pub struct Option;
    pub struct Arc;
    pub struct Service;
    pub struct Request;
    pub struct PhantomData;
    pub struct S;
    pub struct u64;
    pub struct str;
    pub trait Send {}
    pub trait Sync {}
    pub trait Future {}
    pub trait Clone {}
    pub trait Debug {}
    pub trait AsRef {}
    pub trait Method {}
    pub fn call() {}
    pub fn unary() {}
}
#[allow(unused_imports)]
use hostile::*;

#[allow(dead_code)]
mod core {}
#[allow(dead_code)]
mod std {}

#[rpc_service]
pub trait Collisions {
    async fn new(&self) -> Result;
    async fn from_arc(&self) -> Result;
    async fn call(&self) -> Result;
    async fn notify(&self) -> Result;
    async fn connect(&self) -> Result;
    async fn discover(&self) -> Result;
    async fn clone(&self) -> Result;
    async fn fmt(&self) -> Result;
    async fn as_ref(&self) -> Result;
    async fn dispatch(&self) -> Result;
    async fn descriptor(&self) -> Result;
    async fn id(&self) -> Result;
    async fn hello_id(&self) -> Result;
    async fn method_id(&self) -> Result;
    async fn unary(&self) -> Result;
    async fn r#type(&self, r#match: u8) -> Result;
    #[allow(non_snake_case)]
    async fn ID(&self) -> Result;
    #[allow(non_snake_case)]
    async fn S(&self) -> Result;
    #[allow(non_snake_case)]
    async fn Ids(&self) -> Result;
    #[allow(clippy::too_many_arguments)]
    async fn arguments(
        &self,
        request: u8,
        self_: u8,
        service: u8,
        client: u8,
        args: u8,
        __client: u8,
        __service: u8,
        __arguments: u8,
        method: u8,
        uri: u8,
        s: String,
    ) -> Result;
}

struct Provider;

macro_rules! provide {
    ($($name:ident)*) => { $(async fn $name(&self) -> Result { Ok(String) })* };
}

impl Collisions for Provider {
    provide!(new from_arc call notify connect discover clone fmt as_ref dispatch descriptor);
    provide!(id hello_id method_id unary ID S Ids);
    async fn r#type(&self, _match: u8) -> Result {
        Ok(String)
    }
    async fn arguments(
        &self,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        _: u8,
        s: String,
    ) -> Result {
        Ok(s)
    }
}

#[allow(unused)]
async fn use_stub(stub: CollisionsClient) {
    let _ = stub.new().await;
    let _ = stub.connect().await;
    let _ = stub.discover().await;
    let _ = stub.r#type(1).await;
}

fn main() {
    let server = CollisionsServer::new(Provider);
    let _ = CollisionsServer::from_arc(::std::sync::Arc::new(Provider));
    drop(server);
}
