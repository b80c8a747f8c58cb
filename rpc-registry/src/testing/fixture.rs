use std::sync::Arc;

use crate::{BoxFuture, Registry, RegistryError};

/// A registry under test.
pub trait Fixture: Sync {
    /// Makes another connection to the same registry.
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>>;
}

impl<F, C> Fixture for F
where
    F: Fn() -> C + Sync,
    C: Future<Output = Result<Arc<dyn Registry>, RegistryError>> + Send + 'static,
{
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(self())
    }
}

/// A registry under test that can be stopped.
pub trait Outage: Fixture {
    /// Stops the registry. Its content is kept.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Starts the registry again, at the same URI.
    fn start(&self) -> BoxFuture<'_, ()>;
}
