//! What a careful crate denies, in a private module and for the public.

#![deny(
    warnings,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    missing_copy_implementations,
    unused_qualifications,
    unused_lifetimes,
    unused_results,
    single_use_lifetimes,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    let_underscore_drop,
    non_local_definitions,
    trivial_casts,
    unnameable_types,
    variant_size_differences,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
#![forbid(unsafe_code, deprecated, dead_code, non_upper_case_globals)]

use rpc_runtime::{Result, rpc_service};

/// Public.
#[rpc_service]
pub trait Public {
    /// Documented.
    async fn method(&self, name: String) -> Result<String>;
    /// Documented.
    #[rpc(oneway)]
    async fn note(&self) -> Result<()>;
    /// Documented.
    async fn local(&self) -> Result<String> {
        self.method(String::new()).await
    }
}

mod inner {
    use rpc_runtime::{Result, rpc_service};

    #[rpc_service]
    pub(crate) trait Restricted {
        async fn method(&self, name: String) -> Result<String>;
    }

    #[rpc_service]
    trait Private<V: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> {
        async fn method(&self, name: V) -> Result<V>;
    }

    struct Provider;

    impl Private<u8> for Provider {
        async fn method(&self, name: u8) -> Result<u8> {
            Ok(name)
        }
    }

    pub(crate) fn serve() {
        drop(PrivateServer::<_, u8>::new(Provider));
    }
}

struct Provider;

impl inner::Restricted for Provider {
    async fn method(&self, name: String) -> Result<String> {
        Ok(name)
    }
}

fn main() {
    inner::serve();
    drop(inner::RestrictedServer::new(Provider));
}
