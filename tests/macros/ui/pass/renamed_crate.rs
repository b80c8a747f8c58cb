//! The runtime under other names.

extern crate rpc_runtime as other;

mod facade {
    pub mod inner {
        pub use rpc_runtime::*;
    }
}

mod by_extern_crate {
    #[other::rpc_service(crate = other)]
    pub trait One {
        async fn method(&self, a: u8) -> other::Result<u8>;
    }
}

#[other::rpc_service(crate = crate::facade::inner)]
pub trait Two {
    #[rpc(oneway, blocking)]
    async fn method(&self, #[rpc(default)] a: u8) -> other::Result<()>;
}

#[other::rpc_service(crate = "facade::inner")]
pub trait Three {
    async fn method(&self, a: u8) -> other::Result<u8>;
}

fn main() {}
