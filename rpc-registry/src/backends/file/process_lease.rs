//! Process leases: how a process shows that it is running, by renewing the time of a file.
//!
//! The kernel reports processes that have ended. It does not report processes that are stopped, or
//! machines that are suspended. So each process has a file `beats/<name>`, whose modification time
//! it sets at a third of the lease time. The entries of the process name that file, and expire once
//! it is older than the lease time that they state. One file serves all registrations of a process
//! with the same lease time: ten thousand of them are renewed by one system call.
//!
//! The thread that renews does nothing else and belongs to no pool, so that it never waits for
//! work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::folder::Folder;
use super::format::ProcessLeaseRef;
use super::lease::{self, LeaseFile, LeaseStatus, unique_name};
use super::list::ListCache;
use super::signals;
use crate::RegistryError;
use crate::sync::Mutex;

/// The process leases of this process for one folder, by lease time in milliseconds.
#[derive(Default)]
pub(super) struct ProcessLeases(Mutex<BTreeMap<u64, Weak<ProcessLease>>>);

impl ProcessLeases {
    /// The process lease with this lease time, which is started if there is none. The caller holds
    /// the exclusive registry lock.
    pub(super) fn get(
        &self,
        folder: &Arc<Folder>,
        lists: &Arc<ListCache>,
        lease_time: Duration,
    ) -> Result<Arc<ProcessLease>, RegistryError> {
        let key = u64::try_from(lease_time.as_millis()).unwrap_or(u64::MAX);
        let mut leases = self.0.lock();
        if let Some(lease) = leases.get(&key).and_then(Weak::upgrade)
            && lease.is_in_time()
            && lease.has_files()
        {
            return Ok(lease);
        }
        let made = ProcessLease::start(Arc::clone(folder), Arc::clone(lists), lease_time)?;
        leases.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}

/// Renews the registrations of this process that have the same lease time. Ends when it is dropped.
pub(super) struct ProcessLease {
    name: String,
    lease_time: Duration,
    folder: Arc<Folder>,
    lists: Arc<ListCache>,
    members: Mutex<Members>,
    /// Open for writing as long as the process runs, so that the kernel sends the signal by closing
    /// it.
    _signal: File,
    /// The thread ends when this is dropped.
    _thread: mpsc::Sender<Infallible>,
}

struct Members {
    /// By the names of their leases.
    registered: HashMap<String, Member>,
    /// The leases of lost registrations, and since when they are lost. They are held until the
    /// registrations are made again: a free lease means that the provider is dead, which it is not.
    lost: Vec<(Instant, LeaseFile)>,
    renewed: Instant,
    /// Why the process lease has expired. It is not renewed any more.
    expired: Option<RegistryError>,
    /// Why the last renewal failed.
    failed: Option<io::Error>,
}

struct Member {
    lease: LeaseFile,
    lost: oneshot::Sender<RegistryError>,
}

impl ProcessLease {
    fn start(
        folder: Arc<Folder>,
        lists: Arc<ListCache>,
        lease_time: Duration,
    ) -> Result<Arc<Self>, RegistryError> {
        let name = unique_name(&std::process::id().to_string());
        let path = folder.signal(&name);
        let signal =
            folder.create_new(&path).map_err(|error| folder.error("create", &path, error))?;
        let renewed = Instant::now();
        touch(&folder, &name)
            .map_err(|error| folder.error("write", &folder.process_lease(&name), error))?;
        let (thread, ends) = mpsc::channel();
        let (registered, lost) = Default::default();
        let members =
            Mutex::new(Members { registered, lost, renewed, expired: None, failed: None });
        let (_signal, _thread) = (signal, thread);
        let made = Self { name, lease_time, folder, lists, members, _signal, _thread };
        let made = Arc::new(made);
        let weak = Arc::downgrade(&made);
        thread::Builder::new()
            .name("registry-lease".to_owned())
            .spawn(move || renew_until_dropped(&weak, lease_time, &ends))
            .map_err(|error| {
                RegistryError::unavailable(format!("no thread can be started: {error}"))
                    .with_registry(made.folder.uri())
                    .with_hint("a registration needs a thread that renews it")
                    .with_source(error)
            })?;
        Ok(made)
    }

    /// The reference that entries contain.
    pub(super) fn reference(&self) -> ProcessLeaseRef {
        ProcessLeaseRef { name: self.name.clone(), lease_time: self.lease_time }
    }

    fn is_in_time(&self) -> bool {
        let members = self.members.lock();
        members.expired.is_none() && members.renewed.elapsed() < self.lease_time
    }

    /// Whether its files exist. They may have been deleted, and the next renewal may be far away.
    fn has_files(&self) -> bool {
        self.folder.process_lease(&self.name).exists() && self.folder.signal(&self.name).exists()
    }

    /// Renews a lease whose entry is in the list. `lost` receives the reason when that ends.
    pub(super) fn join(&self, lease: LeaseFile, lost: oneshot::Sender<RegistryError>) {
        let mut members = self.members.lock();
        if let Some(expired) = &members.expired {
            let _ = lost.send(expired.clone());
            return;
        }
        members.registered.insert(lease.name().to_owned(), Member { lease, lost });
    }

    /// Releases a lease, which all processes see at once. Returns whether it was still held.
    pub(super) fn leave(&self, lease: &str) -> bool {
        let left = {
            let mut members = self.members.lock();
            if members.expired.is_some() {
                return false;
            }
            members.registered.remove(lease)
        };
        let was_held = left.is_some();
        drop(left);
        if was_held {
            signals::send(&self.folder, &self.name);
        }
        was_held
    }

    /// Returns whether to continue.
    fn renew(&self) -> bool {
        let begun = Instant::now();
        if self.expires() {
            return false;
        }
        let touched = touch(&self.folder, &self.name);
        // The process may have been stopped between the check and the renewal.
        if self.expires() {
            return false;
        }
        let mut members = self.members.lock();
        match touched {
            Ok(()) => (members.renewed, members.failed) = (begun, None),
            Err(error) => {
                if members.failed.is_none() && !self.folder.is_gone() {
                    let path = self.folder.process_lease(&self.name);
                    tracing::warn!(path = %path.display(), %error, "registrations can't be renewed");
                }
                members.failed = Some(error);
            }
        }
        members.lost.retain(|(since, _)| since.elapsed() < self.lease_time);
        drop(members);
        self.check_registered();
        true
    }

    fn has_lost(&self) -> bool {
        !self.members.lock().lost.is_empty()
    }

    /// Whether the lease time is over. Then other processes may consider the registrations expired.
    fn expires(&self) -> bool {
        let mut members = self.members.lock();
        let since = members.renewed.elapsed();
        if since < self.lease_time {
            return false;
        }
        let what = match &members.failed {
            Some(error) => format!("the lease could not be renewed for {since:.1?}: {error}"),
            None => format!("the process stood still for {since:.1?}"),
        };
        let error =
            RegistryError::unavailable(format!("{what}; its lease time is {:?}", self.lease_time))
                .with_registry(self.folder.uri());
        members.expired = Some(error.clone());
        for (name, Member { lease, lost }) in std::mem::take(&mut members.registered) {
            // A registration that an administrator has removed is not made again.
            let status = lease::status(&self.folder, &name);
            if !status.is_ok_and(|status| status == LeaseStatus::Removed) {
                let _ = lost.send(error.clone());
            }
            members.lost.push((Instant::now(), lease));
        }
        true
    }

    /// Finds registrations that other processes can no longer see.
    fn check_registered(&self) {
        let leases: Vec<_> = self.members.lock().registered.keys().cloned().collect();
        // An unreadable list gives no information.
        let Ok(list) = self.lists.current(&self.folder) else { return };
        if list.intact(&self.folder).is_err() {
            return;
        }
        let listed: HashSet<_> = list.readable().iter().map(|e| e.lease.as_str()).collect();
        for lease in leases {
            let is_listed = listed.contains(lease.as_str());
            let path = self.folder.lease(&lease);
            let what = match lease::status(&self.folder, &lease) {
                Ok(LeaseStatus::InPlace) if is_listed => continue,
                Ok(LeaseStatus::InPlace) => "the line was deleted from the list".to_owned(),
                Ok(LeaseStatus::Missing) => format!("the file {} was deleted", path.display()),
                Ok(LeaseStatus::Removed) => {
                    // Removed by an administrator, so it is not made again.
                    self.members.lock().registered.remove(&lease);
                    continue;
                }
                Err(_) => continue,
            };
            let mut members = self.members.lock();
            if let Some(Member { lease, lost }) = members.registered.remove(&lease) {
                let error = RegistryError::unavailable(what).with_registry(self.folder.uri());
                let _ = lost.send(error);
                members.lost.push((Instant::now(), lease));
            }
        }
    }
}

impl Drop for ProcessLease {
    fn drop(&mut self) {
        let _ = self.folder.remove(&self.folder.process_lease(&self.name));
        let _ = self.folder.remove(&self.folder.signal(&self.name));
    }
}

fn renew_until_dropped(
    lease: &Weak<ProcessLease>,
    lease_time: Duration,
    ends: &mpsc::Receiver<Infallible>,
) {
    // Keeps the process lease while it holds leases of lost registrations.
    let mut _held = None;
    while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(lease_time / 3) {
        let Some(lease) = lease.upgrade() else { return };
        if !lease.renew() {
            thread::sleep(lease_time);
            return;
        }
        _held = lease.has_lost().then_some(lease);
    }
}

/// Sets the time of the file. Creates the file if it is missing.
fn touch(folder: &Folder, name: &str) -> io::Result<()> {
    let path = folder.process_lease(name);
    let file = match folder.write(&path, true) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            folder.create_subfolder(&folder.process_leases())?;
            folder.write(&path, true)?
        }
        opened => opened?,
    };
    file.set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::private_files::Access;

    const LEASE_TIME: Duration = Duration::from_secs(1);

    struct Fixture {
        _dir: tempfile::TempDir,
        folder: Arc<Folder>,
        leases: ProcessLeases,
        lists: Arc<ListCache>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::new(dir.path().to_owned(), "file:test", Access::Owner));
            folder.create().unwrap();
            let (leases, lists) = Default::default();
            Self { _dir: dir, folder, leases, lists }
        }

        fn process_lease(&self) -> Arc<ProcessLease> {
            self.leases.get(&self.folder, &self.lists, LEASE_TIME).unwrap()
        }

        fn join(&self, process_lease: &ProcessLease) -> (String, oneshot::Receiver<RegistryError>) {
            let lease = LeaseFile::create(&self.folder, "a").unwrap();
            let (name, (lost, hears)) = (lease.name().to_owned(), oneshot::channel());
            process_lease.join(lease, lost);
            (name, hears)
        }
    }

    /// As if the process had been stopped for its lease time.
    fn stand_still(lease: &ProcessLease) {
        lease.members.lock().renewed = Instant::now().checked_sub(LEASE_TIME).unwrap();
        assert!(!lease.renew());
    }

    #[test]
    fn registrations_with_the_same_lease_time_share_a_process_lease_until_none_needs_it() {
        let f = Fixture::new();
        let (one, two) = (f.process_lease(), f.process_lease());
        assert!(Arc::ptr_eq(&one, &two));
        let other = f.leases.get(&f.folder, &f.lists, 2 * LEASE_TIME).unwrap();
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, two, other));
        let gone = || fs::read_dir(f.folder.process_leases()).unwrap().count() == 0;
        // Its thread may be looking at it just now.
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(20), "a process lease is left");
        }
    }

    #[test]
    fn who_stood_still_hears_of_it_and_frees_nothing_and_is_not_renewed() {
        let f = Fixture::new();
        let process_lease = f.process_lease();
        let (lease, mut hears) = f.join(&process_lease);
        let renewed = || {
            fs::metadata(f.folder.process_lease(&process_lease.name)).unwrap().modified().unwrap()
        };
        let before = renewed();
        stand_still(&process_lease);
        assert!(hears.try_recv().unwrap().to_string().contains("stood still"));
        assert!(!process_lease.leave(&lease), "it is not kept any more");
        assert!(lease::is_held(&f.folder, &lease).unwrap(), "it looks as if it were dead");
        assert_eq!(renewed(), before);
        let (_, mut late) = f.join(&process_lease);
        assert!(late.try_recv().is_ok(), "who joins later must hear of it too");
        assert!(
            !Arc::ptr_eq(&process_lease, &f.process_lease()),
            "a new registration needs another process lease"
        );
    }

    #[test]
    fn who_was_removed_by_an_administrator_hears_nothing_even_if_it_stood_still() {
        let f = Fixture::new();
        let process_lease = f.process_lease();
        let (removed, mut silent) = f.join(&process_lease);
        let (_, mut hears) = f.join(&process_lease);
        lease::remove(&f.folder, &removed).unwrap();
        stand_still(&process_lease);
        assert!(hears.try_recv().is_ok());
        assert!(matches!(silent.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}
