use crate::{BoxFuture, Instance, RegistryError};

/// What a registry on other machines must be able to do by itself. [`Resilient`](crate::Resilient)
/// makes a [`Registry`](crate::Registry) of it: it registers again what was lost, follows again what
/// broke, and protects and remembers lists.
///
/// No method waits without a bound: each ends in a value or an error within the back end's own
/// timeout. A dropped future leaves nothing half done: an [`announce`](Self::announce) that had
/// reached the registry is taken back.
pub trait BackEnd: Send + Sync + 'static {
    /// The URI as the user gave it, credentials redacted; for messages.
    fn uri(&self) -> &str;

    /// Announces a valid instance in a session of its own, which renews itself on a task of its own
    /// at no more than a third of its time. The instance is visible to every list that is asked for
    /// after this returns.
    ///
    /// # Errors
    ///
    /// `is_already_exists` if the id of the service is taken: when `claim` is [`Claim::New`], by
    /// any living registration, and when it is [`Claim::Again`], by one whose epoch is not older.
    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>>;

    /// The living instances of `service` as they are now, in any order.
    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>>;

    /// Follows the living instances of `service`.
    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>>;

    /// Removes a registration that belongs to someone else; see
    /// [`Registry::unregister`](crate::Registry::unregister).
    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>>;

    /// The names of all services that have a living instance, in any order.
    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>>;
}

/// By what right an id is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody may have it.
    New,
    /// It is the same provider's, whose former session was lost. Its entry may still be there, with
    /// an older epoch.
    Again,
}

/// A registration, as a [`BackEnd`] made it.
pub struct Announcement {
    /// The instance as it was stored; its epoch may be newer than the one that was given.
    pub instance: Instance,
    /// Ready with the reason when the registration is lost: its session has ended, or nobody could
    /// be told for so long that it must be taken to have. Not ready any more once the session is
    /// withdrawn.
    pub lost: BoxFuture<'static, RegistryError>,
    /// What ends it.
    pub session: Box<dyn Session>,
}

/// A registration that a [`BackEnd`] keeps. Only the entry of this very session is ever removed, not
/// a newer one of the same id.
///
/// One of the two methods is called, and then the session is dropped. One that is merely dropped is
/// no longer renewed.
pub trait Session: Send + 'static {
    /// Removes the entry, as an orderly departure, and reports how that went.
    ///
    /// If the future is dropped before it is ready, [`abandon`](Self::abandon) follows.
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Removes the entry as soon as can be done without waiting here: maybe on a thread that runs
    /// other tasks, maybe outside of a runtime.
    fn abandon(&mut self);
}

/// The lists of a service, one after the other.
pub trait Feed: Send + 'static {
    /// The next list; the first one at once. Quick changes may be told as one.
    ///
    /// # Errors
    ///
    /// The feed has broken. It is not asked again; the service is followed anew.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has consumed nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>>;
}

/// What a [`Feed`] tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// All living instances, in any order.
    pub instances: Vec<Instance>,
    /// The ids of those among the missing of which it is known that they left in order or are dead.
    /// Others have merely lapsed, and that may be the registry's fault.
    pub departed: Vec<String>,
    /// The registry was at fault since the last list: it was away, or began anew.
    pub after_fault: bool,
}
