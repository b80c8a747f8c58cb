//! Leases: who is alive is what the kernel says.
//!
//! A provider holds an exclusive lock on a file of its own, `leases/<name>.lock`, as long as it
//! lives. It is alive exactly as long as that lock can't be had. Why nobody is ever wrong about
//! it:
//!
//! - *A name is used once.* It has 64 random bits and the file must not have existed. So a lease
//!   goes from held to free once and for all: "free" can't become wrong later, and removing a free
//!   file can't take it away from a successor.
//! - *The lock comes before the entry.* Readers try only the leases that the list names, and the
//!   list names one only after it is held. So a reader's attempt never meets a provider that is
//!   still about to take its lock, and a name in the list that is free is dead.
//! - *Readers try with a shared lock*, so that two of them don't take each other for the provider.
//! - *Cleaning up* looks at files that the list does not name (their provider died before it was
//!   in the list, or after it was removed). It runs under the exclusive registry lock, as does
//!   making a lease, so the two don't meet.
//! - *No child inherits a lease*: the standard library opens with `O_CLOEXEC`. (One that forks and
//!   does not exec does share it, and keeps the lease alive.)

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::folder::Folder;
use super::store::Store;
use crate::instance::random_bits;
use crate::{BoxFuture, LeaseHandle, RegistryError};

/// How long a dropped lease waits for the registry lock to remove its line. It may be dropped on a
/// thread that other tasks need; what is left over goes with the next write of anybody.
const DROP_PATIENCE: Duration = Duration::from_millis(50);

/// A lock file that this process holds. Dropping it is what ends the registration.
pub(super) struct LeaseFile {
    name: String,
    path: PathBuf,
    file: Option<File>,
}

impl LeaseFile {
    /// Makes and locks a lease. The caller holds the exclusive registry lock.
    pub(super) fn create(folder: &Folder, id: &str) -> Result<Self, RegistryError> {
        let name = lease_name(id);
        let path = folder.lease(&name);
        let failed = |error| folder.error("create", &path, error);
        let file = File::create_new(&path).map_err(failed)?;
        let mut lease = Self { name, path: path.clone(), file: Some(file) };
        if let Some(file) = &mut lease.file {
            file.try_lock().map_err(|error| match error {
                TryLockError::Error(error) => folder.error("lock", &path, error),
                TryLockError::WouldBlock => RegistryError::unavailable(format!(
                    "the new lease file {} is locked by someone else",
                    path.display()
                ))
                .with_registry(folder.uri())
                .with_hint("let only this framework use the folder"),
            })?;
            // For a person who wonders whose it is; nothing relies on it.
            let _ = writeln!(file, "{}", std::process::id());
        }
        Ok(lease)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for LeaseFile {
    fn drop(&mut self) {
        // Closing releases the lock: from here on everyone finds the provider dead. Nobody will
        // lock this name again, so that removing it needs no lock.
        self.file = None;
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a provider holds the lease of this name.
pub(super) fn is_held(folder: &Folder, name: &str) -> Result<bool, RegistryError> {
    let path = folder.lease(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        // Not being able to look, for want of file descriptors for instance, is not being dead.
        Err(error) => return Err(folder.error("open", &path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(folder.error("lock", &path, error)),
    }
}

/// Removes the lease files that nobody holds and that are not among `named`. The caller holds the
/// exclusive registry lock. Leftovers do no harm, so failures only end it.
pub(super) fn sweep(folder: &Folder, named: &HashSet<&str>) {
    let Ok(files) = fs::read_dir(folder.leases()) else { return };
    for path in files.flatten().map(|file| file.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(".lock")) else { continue };
        if !named.contains(name) && is_lease_name(name) && is_held(folder, name).is_ok_and(|h| !h) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether `name` can be a lease's: one plain part of a path.
pub(super) fn is_lease_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The id as far as it fits into a file name, for people, and then what makes it unique.
fn lease_name(id: &str) -> String {
    let readable = id.chars().take(80).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    format!("{}-{:016x}", readable.collect::<String>(), random_bits())
}

/// Ends a registration.
pub(super) struct FileLease {
    store: Arc<Store>,
    file: Option<LeaseFile>,
}

impl FileLease {
    pub(super) fn new(store: Arc<Store>, file: LeaseFile) -> Self {
        Self { store, file: Some(file) }
    }
}

// The line in the list is not looked up by id: once the lease is free it is a dead line like any
// other. So an old lease can't remove the line of a newer registration of the same id.
impl LeaseHandle for FileLease {
    fn revoke(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.file = None;
            if !self.store.folder().is_gone() {
                self.store.write(|store| store.remove(|_| false)).await?;
            }
            Ok(())
        })
    }

    fn abandon(&mut self) {
        self.file = None;
        if self.store.folder().is_gone() {
            return;
        }
        if let Err(error) = self.store.write_within(DROP_PATIENCE, |s| s.remove(|_| false)) {
            tracing::debug!(%error, "a dead line stays in the registry until the next write");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned(), "file:test");
        folder.create().unwrap();
        (dir, folder)
    }

    #[test]
    fn a_lease_is_held_until_it_is_dropped_and_leaves_no_file() {
        let (_dir, folder) = folder();
        let lease = LeaseFile::create(&folder, "a").unwrap();
        let name = lease.name().to_owned();
        assert!(is_held(&folder, &name).unwrap());
        assert!(is_held(&folder, &name).unwrap(), "the first look has taken the lease away");
        drop(lease);
        assert!(!is_held(&folder, &name).unwrap());
        assert_eq!(fs::read_dir(folder.leases()).unwrap().count(), 0);
    }

    #[test]
    fn two_who_look_at_once_both_find_it_dead() {
        let (_dir, folder) = folder();
        let path = folder.lease("dead");
        let looking = File::create(&path).unwrap();
        looking.try_lock_shared().unwrap();
        assert!(!is_held(&folder, "dead").unwrap());
    }

    #[test]
    fn sweeping_removes_what_is_free_and_not_named_and_nothing_else() {
        let (_dir, folder) = folder();
        let held = LeaseFile::create(&folder, "held").unwrap();
        for name in ["free.lock", "named.lock", "README", "not a name.lock"] {
            File::create(folder.leases().join(name)).unwrap();
        }
        sweep(&folder, &HashSet::from(["named"]));
        let mut left: Vec<_> = fs::read_dir(folder.leases())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let held = format!("{}.lock", held.name());
        assert_eq!(left, ["README", &held, "named.lock", "not a name.lock"]);
    }

    #[test]
    fn names_are_plain_and_never_the_same() {
        let id = "../../x y/\u{e4}".repeat(40);
        let (one, two) = (lease_name(&id), lease_name(&id));
        assert!(is_lease_name(&one) && one != two, "{one} {two}");
        for bad in ["", ".", "..", "a/b", "a.b", "a\\b", "a\0", &"x".repeat(129)] {
            assert!(!is_lease_name(bad), "{bad:?}");
        }
    }
}
