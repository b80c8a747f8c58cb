//! The registry lock, which a process holds while it writes.
//!
//! `File::lock` is an advisory lock of the kernel that belongs to the open file. It ends when the
//! file is closed, so also when the process is killed. Each attempt opens the file anew, so two
//! tasks of one process exclude each other like two processes do, and since the standard library
//! opens with `O_CLOEXEC`, no child process inherits it.
//!
//! The lock file is never removed: a process that has it open would lock a file that no other
//! process can find. In case it was removed by hand, an attempt checks that the locked file is the
//! one that the path names.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use super::folder::Folder;
use super::stamp::Stamp;
use crate::RegistryError;

/// Holds the registry lock, exclusive or shared, until it is dropped.
pub(super) struct LockGuard(#[expect(dead_code, reason = "held for the lock")] File);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// For one process, to write.
    Exclusive,
    /// For several processes, to keep writers out.
    Shared,
}

/// Takes the lock if it is free, without regard to waiting processes; see
/// [`TicketLock`](super::ticket_lock::TicketLock).
pub(super) fn attempt(folder: &Folder, mode: Mode) -> Result<Option<LockGuard>, RegistryError> {
    let path = folder.lock();
    let failed = |error| folder.error("lock", &path, error);
    // A process that may only read the folder can still lock out writers.
    let open = || match mode {
        Mode::Exclusive => folder.write(&path, true),
        Mode::Shared => folder.read(&path),
    };
    let mut file = match open() {
        // The folder was removed after the connection was made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            folder.create()?;
            open()
        }
        opened => opened,
    }
    .map_err(failed)?;
    let taken = match mode {
        Mode::Exclusive => file.try_lock(),
        Mode::Shared => file.try_lock_shared(),
    };
    match taken {
        Ok(()) if !names(&path, &file).map_err(failed)? => Ok(None),
        Ok(()) => {
            if mode == Mode::Exclusive {
                note_holder(&mut file);
            }
            Ok(Some(LockGuard(file)))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The error after waiting for `timeout`.
pub(super) fn timed_out(folder: &Folder, timeout: Duration) -> RegistryError {
    let path = folder.lock();
    let holder = match holder(folder, &path) {
        Some(pid) => format!("process {pid} took it last"),
        None => "its holder is not known".to_owned(),
    };
    RegistryError::timeout(format!(
        "waited {timeout:?} for the lock file {}, which stays locked; {holder}",
        path.display()
    ))
    .with_registry(folder.uri())
    .with_hint(
        "resume or end that process if it is stopped, or raise ?lock_timeout= if the machine is \
         slow; don't delete the file",
    )
}

fn names(path: &Path, file: &File) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(named) => Ok(Stamp::of(&named).is_same_file(&Stamp::of(&file.metadata()?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the process id for the error message of a process that waits in vain. The code does not
/// rely on it, so failures are ignored.
fn note_holder(file: &mut File) {
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
}

fn holder(folder: &Folder, path: &Path) -> Option<u32> {
    let mut text = String::new();
    folder.read(path).ok()?.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers() {
        let (_dir, folder) = Folder::temporary();
        let writer = attempt(&folder, Mode::Exclusive).unwrap();
        assert!(writer.is_some());
        assert!(attempt(&folder, Mode::Exclusive).unwrap().is_none());
        assert!(attempt(&folder, Mode::Shared).unwrap().is_none());
        drop(writer);
        let reader = attempt(&folder, Mode::Shared).unwrap();
        assert!(reader.is_some() && attempt(&folder, Mode::Shared).unwrap().is_some());
        assert!(attempt(&folder, Mode::Exclusive).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_on_a_file_that_was_replaced_does_not_count() {
        let (_dir, folder) = Folder::temporary();
        let path = folder.lock();
        let file = File::create(&path).unwrap();
        assert!(names(&path, &file).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!names(&path, &file).unwrap());
        File::create(&path).unwrap();
        assert!(!names(&path, &file).unwrap());
    }
}
