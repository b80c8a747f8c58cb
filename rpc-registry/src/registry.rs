use std::pin::Pin;

use crate::{Instance, Lease, RegistryError, Snapshot, Watch};

/// A boxed future, so that [`Registry`] can be used as `dyn Registry`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place where providers announce themselves and consumers find them.
///
/// All methods take `&self`; one registry is shared by every server and client of a process as
/// `Arc<dyn Registry>`. No method waits without a bound: each ends in a value or an error within
/// the back end's own timeout.
///
/// # Cancel safety
///
/// A dropped future leaves nothing half done. A cancelled [`register`](Self::register) may have
/// reached the back end already; it is taken back then, as if its [`Lease`] had been dropped. A
/// cancelled [`unregister`](Self::unregister) may or may not have happened.
pub trait Registry: Send + Sync + 'static {
    /// The URI as the user gave it, credentials redacted; for messages.
    fn uri(&self) -> &str;

    /// Announces `instance` for as long as the returned [`Lease`] lives.
    ///
    /// The instance is visible to every [`lookup`](Self::lookup) that starts after this returns.
    ///
    /// # Errors
    ///
    /// `is_invalid_instance` when [`Instance::validate`] refuses it; `is_already_exists` when the
    /// same id of the same service is registered and alive (a dead one is replaced); otherwise
    /// what the back end ran into.
    fn register<'a>(&'a self, instance: Instance) -> BoxFuture<'a, Result<Lease, RegistryError>>;

    /// The living instances of `service`, ordered by id. Empty when nobody provides it. A back end
    /// that is away may be answered for by what it said last: see [`Snapshot::age`].
    fn lookup<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Snapshot, RegistryError>>;

    /// Follows the living instances of `service`. The present state is read before this returns.
    fn watch<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>>;

    /// Removes a registration that belongs to someone else, as an administrator does. Returns
    /// whether it was there and alive. The provider is not told, and keeps running.
    fn unregister<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>>;

    /// The names of all services that have a living instance, sorted.
    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>>;
}
