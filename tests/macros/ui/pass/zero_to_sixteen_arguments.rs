use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Many {
    async fn none(&self) -> Result<()>;
    async fn one(&self, a: u8) -> Result<u8>;
    #[allow(clippy::too_many_arguments)]
    async fn sixteen(
        &self,
        a: u8,
        b: u16,
        c: u32,
        d: u64,
        e: i8,
        f: i16,
        g: i32,
        h: i64,
        i: f32,
        j: f64,
        k: bool,
        l: char,
        m: String,
        n: Vec<u8>,
        o: Option<u8>,
        #[rpc(default)] p: (u8, u8),
    ) -> Result<()>;
}

#[rpc_service]
pub trait Empty {}

fn main() {}
