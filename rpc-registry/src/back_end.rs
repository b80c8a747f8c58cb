use crate::{BoxFuture, Instance, RegistryError};

/// A kind of registry: the interface between a store of registrations and the layer that all
/// registries share.
///
/// [`Resilient`](crate::Resilient) makes a [`Registry`](crate::Registry) of a back end. It
/// registers again what was lost, follows again after a feed has broken, protects lists and
/// remembers them.
///
/// Every method returns within the timeout of the back end. A dropped future leaves nothing behind:
/// an [`announce`](Self::announce) that has reached the registry is removed.
pub trait BackEnd: Send + Sync + 'static {
    /// The URI as the user gave it, credentials redacted. For messages.
    fn uri(&self) -> &str;

    /// Registers a valid instance in a new session. A background task renews the session at
    /// a third of its time or more often. The instance is visible to every list that is requested
    /// after this returns.
    ///
    /// # Errors
    ///
    /// `is_already_exists` if the id of the service is taken: for [`Claim::New`], by any living
    /// registration; for [`Claim::Again`], by a registration whose epoch is not older.
    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>>;

    /// The current living instances of `service`, in any order.
    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>>;

    /// Follows the living instances of `service`.
    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>>;

    /// Removes the registration of another process; see
    /// [`Registry::unregister`](crate::Registry::unregister).
    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>>;

    /// The names of all services with a living instance, in any order.
    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>>;
}

/// Which registrations of an id a new registration may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// None that is alive.
    New,
    /// Those with an older epoch. The provider registers again after its session was lost, and the
    /// entry of that session may still exist.
    Again,
}

/// A registration, as a [`BackEnd`] made it.
pub struct Announcement {
    /// The instance as it was stored. Its epoch may be newer than that of the given instance.
    pub instance: Instance,
    /// Completes with the reason when the registration is lost: its session has ended, or could not
    /// be renewed for so long that it must be considered expired. Never completes after the session
    /// was withdrawn.
    pub lost: BoxFuture<'static, RegistryError>,
    /// Ends the registration.
    pub session: Box<dyn Session>,
}

/// A registration in a [`BackEnd`]. Ending it removes only the entry of this session, never a newer
/// entry with the same id.
///
/// One of the two methods is called, then the session is dropped. A session that is only dropped is
/// no longer renewed.
pub trait Session: Send + 'static {
    /// Removes the entry as an orderly departure, and reports the result.
    ///
    /// If the future is dropped before it is complete, [`abandon`](Self::abandon) is called next.
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Removes the entry as soon as possible without blocking. May be called on a thread that runs
    /// other tasks, and outside of a runtime. Failures are logged.
    fn abandon(&mut self);
}

/// The successive lists of a service.
pub trait Feed: Send + 'static {
    /// The next list. The first call returns the current list at once. Changes in quick succession
    /// may be reported together.
    ///
    /// # Errors
    ///
    /// The feed has broken. It is not used again; the service is followed with a new feed.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has consumed nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>>;
}

/// A list of a [`Feed`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// All living instances, in any order.
    pub instances: Vec<Instance>,
    /// The ids of missing instances that are known to have left in order or to be dead. Other
    /// missing instances have expired, which may be the fault of the registry.
    pub departed: Vec<String>,
    /// Whether the registry had a fault since the last list: it was not available, or it started
    /// without its former content.
    pub after_fault: bool,
}
