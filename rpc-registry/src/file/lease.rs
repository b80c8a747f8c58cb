//! Leases: who is dead is what the kernel says.
//!
//! A provider holds an exclusive lock on a file of its own, `leases/<name>.lock`, as long as it
//! lives. It is dead as soon as that lock can be had. Why nobody is ever wrong about it:
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
//!
//! That a living provider does nothing any more is said by its [`beat`](super::beat).

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::RegistryError;
use crate::instance::random_bits;
use crate::private_files::{self, Access};

/// A lock file that this process holds. Dropping it is what ends the registration.
pub(super) struct LeaseFile {
    name: String,
    path: PathBuf,
    access: Access,
    file: Option<File>,
}

impl LeaseFile {
    /// Makes and locks a lease. The caller holds the exclusive registry lock.
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
        // Not being able to look, for want of file descriptors for instance, is not being dead.
        Err(error) => return Err(folder.error("open", &path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(folder.error("lock", &path, error)),
    }
}

/// Frees the lease on behalf of an administrator: from here on everyone finds it dead. What is left
/// tells the provider that this was meant.
pub(super) fn remove(folder: &Folder, name: &str) -> Result<(), RegistryError> {
    let path = folder.lease(name);
    match folder.rename(&path, &folder.removed(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(folder.error("rename", &path, error))
        }
        _ => Ok(()),
    }
}

/// What became of the file of a lease that this process holds.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It is where readers look.
    InPlace,
    /// An administrator has removed the registration.
    Removed,
    /// Nobody who may has removed it, so readers are wrong.
    Missing,
}

pub(super) fn fate(folder: &Folder, name: &str) -> io::Result<Fate> {
    Ok(if folder.lease(name).try_exists()? {
        Fate::InPlace
    } else if folder.removed(name).try_exists()? {
        Fate::Removed
    } else {
        Fate::Missing
    })
}

/// Whether nobody holds this file.
pub(super) fn is_free(folder: &Folder, path: &Path) -> bool {
    folder.read(path).is_ok_and(|file| file.try_lock_shared().is_ok())
}

/// Whether `name` can be a lease's or a beat's: one plain part of a path.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A text as far as it fits into a file name, for people, and then what makes it unique.
pub(super) fn unique_name(text: &str) -> String {
    let readable = text.chars().take(80).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    format!("{}-{:016x}", readable.collect::<String>(), random_bits())
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
        assert!(is_held(&folder, &name).unwrap(), "the first look has taken the lease away");
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
        assert_eq!(fate(&folder, removed.name()).unwrap(), Fate::InPlace);
        remove(&folder, removed.name()).unwrap();
        fs::remove_file(folder.lease(missing.name())).unwrap();
        assert_eq!(fate(&folder, removed.name()).unwrap(), Fate::Removed);
        assert_eq!(fate(&folder, missing.name()).unwrap(), Fate::Missing);
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
