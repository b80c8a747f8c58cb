//! Docs, `cfg` (`any()` never holds, `all()` always) and `deprecated`: what is absent leaves no trace, what is old warns its users only.

#![deny(warnings)]

use rpc_runtime::{Result, rpc_service};

/// Documented.
#[rpc_service]
#[cfg(all())]
pub trait Carried {
    /// Documented.
    async fn here(&self) -> Result<()>;
    #[cfg(any())]
    async fn gone(&self, unknown: UnknownType) -> Result<UnknownType>;
    #[cfg(any())]
    #[rpc(oneway)]
    async fn gone_too(&self) -> Result<()>;
    #[cfg(any())]
    async fn either(&self, a: u8) -> Result<u8>;
    #[cfg(all())]
    async fn either(&self, a: u16) -> Result<u16>;
    #[deprecated = "use `here`"]
    async fn old(&self) -> Result<()>;
    #[cfg(any())]
    async fn local(&self) -> UnknownType {
        UnknownType
    }
}

#[rpc_service]
#[cfg(any())]
pub trait Absent {
    async fn gone(&self, unknown: UnknownType) -> Result<UnknownType>;
}

#[deprecated]
#[rpc_service]
pub trait Old {
    async fn method(&self) -> Result<()>;
}

struct Provider;

impl Carried for Provider {
    async fn here(&self) -> Result<()> {
        Ok(())
    }
    async fn either(&self, a: u16) -> Result<u16> {
        Ok(a)
    }
    async fn old(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {
    CarriedServer::new(Provider);
    #[allow(deprecated)]
    drop(Provider.old());
}
