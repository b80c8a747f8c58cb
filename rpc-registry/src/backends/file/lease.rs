//! Lease files: the kernel shows which providers have ended.
//!
//! A provider holds an exclusive lock on a file of its own, `leases/<name>.lock`, as long as it
//! lives. It is dead as soon as that lock can be taken. This is never wrong:
//!
//! - *A name is used once.* It has 64 random bits, and the file must not have existed. So a lease
//!   goes from held to free once and stays free, and removing a free file cannot remove the file of
//!   a successor.
//! - *The lock comes before the entry.* Readers try only the leases in the list, and the list names
//!   a lease only after it is held. So a reader never meets a provider that has not taken its lock
//!   yet, and a listed lease that is free belongs to a dead provider.
//! - *Readers try with a shared lock*, so two readers do not take each other for the provider.
//! - *Cleaning up* removes files that the list does not name: their provider died before it was
//!   listed, or after it was removed. It runs under the exclusive registry lock, as does the
//!   creation of a lease, so the two do not interfere.
//! - *Child processes do not inherit a lease*: the standard library opens files with `O_CLOEXEC`.
//!   (A process that forks without exec shares the lease and keeps it alive.)
//!
//! Whether a living process is stopped is shown by its [process lease](super::process_lease).

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::RegistryError;
use crate::private_files::{self, Access};
use crate::random::random_u64;

/// A lock file that this process holds. Dropping it ends the registration.
pub(super) struct LeaseFile {
    name: String,
    path: PathBuf,
    access: Access,
    file: Option<File>,
}

impl LeaseFile {
    /// Creates and locks a lease. The caller holds the exclusive registry lock.
    pub(super) fn create(folder: &Folder, id: &str) -> Result<Self, RegistryError> {
        let name = unique_name(id);
        let path = folder.lease(&name);
        let failed = |error| folder.error("create", &path, error);
        let file = folder.create_new(&path).map_err(failed)?;
        let mut lease =
            Self { name, path: path.clone(), access: folder.access(), file: Some(file) };
        if let Some(file) = &mut lease.file {
            file.try_lock().map_err(|error| match error {
                TryLockError::Error(error) => folder.error("lock", &path, error),
                TryLockError::WouldBlock => RegistryError::unavailable(format!(
                    "the new lease file {} is locked by another process",
                    path.display()
                ))
                .with_registry(folder.uri())
                .with_hint("let only this registry use the folder"),
            })?;
            // For people. The code does not rely on it.
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
        // Closing releases the lock: from here on the provider is dead. This name is never locked
        // again, so removing it needs no lock.
        self.file = None;
        if private_files::remove(&self.path, self.access).is_err() {
            let _ = private_files::remove(&self.path.with_extension("removed"), self.access);
        }
    }
}

/// Whether a provider holds the lease of this name.
pub(super) fn is_held(folder: &Folder, name: &str) -> Result<bool, RegistryError> {
    let path = folder.lease(name);
    let file = match folder.read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        // Without file descriptors, for instance, it is not known whether the provider is dead.
        Err(error) => return Err(folder.error("open", &path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(folder.error("lock", &path, error)),
    }
}

/// Frees the lease on behalf of an administrator: from here on the provider is dead. The renamed
/// file shows the provider that this was intended.
pub(super) fn remove(folder: &Folder, name: &str) -> Result<(), RegistryError> {
    let path = folder.lease(name);
    match folder.rename(&path, &folder.removed(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(folder.error("rename", &path, error))
        }
        _ => Ok(()),
    }
}

/// The state of the file of a lease that this process holds.
#[derive(Debug, PartialEq)]
pub(super) enum LeaseStatus {
    /// The file has its name, so readers find it.
    InPlace,
    /// An administrator has removed the registration.
    Removed,
    /// The file was deleted, so readers take the provider for dead.
    Missing,
}

pub(super) fn status(folder: &Folder, name: &str) -> io::Result<LeaseStatus> {
    Ok(if folder.lease(name).try_exists()? {
        LeaseStatus::InPlace
    } else if folder.removed(name).try_exists()? {
        LeaseStatus::Removed
    } else {
        LeaseStatus::Missing
    })
}

/// Whether this file is not locked.
pub(super) fn is_free(folder: &Folder, path: &Path) -> bool {
    folder.read(path).is_ok_and(|file| file.try_lock_shared().is_ok())
}

/// Whether `name` can be the name of a lease or a process lease: one plain component of a path.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A unique file name that begins with `text`, as far as that fits, for people.
pub(super) fn unique_name(text: &str) -> String {
    let readable = text.chars().take(80).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    format!("{}-{:016x}", readable.collect::<String>(), random_u64())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_lease_is_held_until_it_is_dropped_and_leaves_no_file() {
        let (_dir, folder) = Folder::temporary();
        let lease = LeaseFile::create(&folder, "a").unwrap();
        let name = lease.name().to_owned();
        assert!(is_held(&folder, &name).unwrap());
        assert!(is_held(&folder, &name).unwrap(), "the first check has taken the lease away");
        drop(lease);
        assert!(!is_held(&folder, &name).unwrap());
        assert_eq!(fs::read_dir(folder.leases()).unwrap().count(), 0);
    }

    #[test]
    fn two_who_look_at_once_both_find_it_dead() {
        let (_dir, folder) = Folder::temporary();
        let path = folder.lease("dead");
        let looking = File::create(&path).unwrap();
        looking.try_lock_shared().unwrap();
        assert!(!is_held(&folder, "dead").unwrap());
    }

    #[test]
    fn a_lease_that_an_administrator_removed_is_told_from_one_that_is_missing() {
        let (_dir, folder) = Folder::temporary();
        let removed = LeaseFile::create(&folder, "a").unwrap();
        let missing = LeaseFile::create(&folder, "b").unwrap();
        assert_eq!(status(&folder, removed.name()).unwrap(), LeaseStatus::InPlace);
        remove(&folder, removed.name()).unwrap();
        fs::remove_file(folder.lease(missing.name())).unwrap();
        assert_eq!(status(&folder, removed.name()).unwrap(), LeaseStatus::Removed);
        assert_eq!(status(&folder, missing.name()).unwrap(), LeaseStatus::Missing);
        assert!(!is_held(&folder, removed.name()).unwrap());
        drop((removed, missing));
        assert_eq!(fs::read_dir(folder.leases()).unwrap().count(), 0);
    }

    #[test]
    fn names_are_plain_and_never_the_same() {
        let id = "../../x y/\u{e4}".repeat(40);
        let (one, two) = (unique_name(&id), unique_name(&id));
        assert!(is_plain(&one) && one != two, "{one} {two}");
        for bad in ["", ".", "..", "a/b", "a.b", "a\\b", "a\0", &"x".repeat(129)] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
