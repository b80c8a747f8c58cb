use crate::{BoxFuture, Instance, Lease, RegistryError, Snapshot, Watch};

/// A directory of services: providers register instances, consumers find them.
///
/// [`connect`](crate::connect) returns one. Another kind of registry implements
/// [`BackEnd`](crate::BackEnd), from which [`Resilient`](crate::Resilient) makes a registry.
///
/// All methods take `&self`; all servers and clients of a process share one registry as
/// `Arc<dyn Registry>`. Every method returns within the timeout of the back end.
///
/// # Cancel safety
///
/// All methods are cancel safe. A cancelled [`register`](Self::register) that has already reached
/// the back end is removed, as if its [`Lease`] had been dropped. A cancelled
/// [`unregister`](Self::unregister) may or may not have happened.
pub trait Registry: Send + Sync + 'static {
    /// The URI as the user gave it, credentials redacted. For messages.
    fn uri(&self) -> &str;

    /// Registers `instance` as long as the returned [`Lease`] lives.
    ///
    /// The instance is visible to every [`lookup`](Self::lookup) that starts after this returns.
    ///
    /// # Errors
    ///
    /// `is_invalid_instance` if [`Instance::validate`] refuses it; `is_already_exists` if the same
    /// id of the same service is registered and alive (a dead one is replaced); otherwise the error
    /// of the back end.
    fn register<'a>(&'a self, instance: Instance) -> BoxFuture<'a, Result<Lease, RegistryError>>;

    /// The living instances of `service`, ordered by id. Empty if there is no provider. While the
    /// registry is not available, this is its last known list: see [`Snapshot::age`].
    fn lookup<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Snapshot, RegistryError>>;

    /// Follows the living instances of `service`. The current list is read before this returns.
    fn watch<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>>;

    /// Removes the registration of another process, as an administrator does. Returns whether it
    /// existed and was alive. The provider is not notified and keeps running.
    fn unregister<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>>;

    /// The names of all services with a living instance, sorted.
    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>>;
}
