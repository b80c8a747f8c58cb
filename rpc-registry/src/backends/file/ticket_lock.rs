//! [`TicketLock`]: processes take the registry lock in the order of their arrival.
//!
//! The kernel's lock alone is not fair: a process that has just released it and wants it again is
//! faster than one that has to wake up first. So each waiting process has a ticket, a locked file
//! in `turns/` whose name begins with the next number. A process takes the lock when no live ticket
//! is before its own, and keeps the ticket until it releases the lock.
//!
//! - *A ticket is locked before it gets its name.* So an unlocked ticket belongs to a process that
//!   has ended. Any process that finds it removes it.
//! - *A ticket is removed before the lock is released.* So if the lock is free although the first
//!   ticket is still the same, its process does not take the lock: it is stopped or gets no
//!   processor time. After [`GRACE`] the next process takes the lock and removes the tickets before
//!   its own. A process whose ticket was removed takes another one.
//! - *Readers go first.* A reader that locks out writers, because the list changes faster than it
//!   can read, has the number 0 and waits only for the lock.
//! - *Tickets affect only the order.* The lock alone ensures that one process writes at a time,
//!   also among programs that do not use tickets.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::lock::{self, LockGuard, Mode};
use crate::RegistryError;
use crate::private_files::{self, Access};
use crate::random::random_u64;

/// How long the process with the first ticket may leave the lock unused.
const GRACE: Duration = Duration::from_millis(500);
/// Additional wait of each further process in the queue, so that the one before it acts first.
const STAGGER: Duration = Duration::from_millis(50);
/// Sleep per ticket before the own one: less than the lock is held.
const EACH: Duration = Duration::from_micros(500);
/// Minimum sleep, for the first in the queue.
const SHORTEST: Duration = Duration::from_micros(250);
/// Maximum sleep.
const LONGEST: Duration = Duration::from_millis(16);
/// Shorter sleeps do not return the thread to the pool.
const SHORT: Duration = Duration::from_millis(2);

/// Takes the lock, blocking the thread for at most about `timeout`.
pub(super) fn wait(
    folder: &Folder,
    mode: Mode,
    timeout: Duration,
) -> Result<TicketGuard, RegistryError> {
    let started = Instant::now();
    let mut lock = TicketLock::new(mode);
    loop {
        match lock.try_lock(folder)? {
            Attempt::Locked(guard) => return Ok(guard),
            Attempt::RetryAfter(pause) if started.elapsed() + pause > timeout => {
                return Err(lock::timed_out(folder, timeout));
            }
            Attempt::RetryAfter(pause) => thread::sleep(pause),
        }
    }
}

/// A request for the lock. Dropping it leaves the queue.
pub(super) struct TicketLock {
    mode: Mode,
    ticket: Option<Ticket>,
    /// The first ticket, and since when it is the first.
    first: (String, Instant),
}

pub(super) enum Attempt {
    Locked(TicketGuard),
    /// Try again after this time.
    RetryAfter(Duration),
}

/// Holds the lock until it is dropped.
pub(super) struct TicketGuard {
    // Dropped in this order: see the module.
    _ticket: Option<Ticket>,
    _lock: LockGuard,
}

impl TicketLock {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, ticket: None, first: (String::new(), Instant::now()) }
    }

    /// Takes the lock if this ticket is the first. Sleeps up to `patience` if it soon will be.
    pub(super) fn try_for(
        &mut self,
        folder: &Folder,
        patience: Duration,
    ) -> Result<Attempt, RegistryError> {
        let started = Instant::now();
        loop {
            match self.try_lock(folder)? {
                Attempt::RetryAfter(pause) if pause < SHORT && started.elapsed() < patience => {
                    thread::sleep(pause);
                }
                outcome => return Ok(outcome),
            }
        }
    }

    fn try_lock(&mut self, folder: &Folder) -> Result<Attempt, RegistryError> {
        let before = self.before(folder)?;
        let first = before.first().cloned().unwrap_or_default();
        if self.first.0 != first {
            self.first = (first, Instant::now());
        }
        let waited = self.first.1.elapsed();
        let many = u32::try_from(before.len()).unwrap_or(u32::MAX);
        let is_next = self.mode == Mode::Shared || !is_any_waiting(folder, &before)?;
        let may_try = is_next || waited > GRACE.saturating_add(STAGGER.saturating_mul(many));
        // If the first ticket has changed, the previous process was not stopped but writing.
        if may_try
            && let Some(lock) = lock::attempt(folder, self.mode)?
            && (is_next || self.before(folder)?.first() == Some(&self.first.0))
        {
            if !is_next {
                for name in &before {
                    let _ = folder.remove(&folder.tickets().join(name));
                }
            }
            return Ok(Attempt::Locked(TicketGuard { _ticket: self.ticket.take(), _lock: lock }));
        }
        let pause = EACH.saturating_mul(many).max(SHORTEST).max(waited / 8).min(LONGEST);
        Ok(Attempt::RetryAfter(pause))
    }

    /// The tickets before the own one, which is created if it does not exist.
    fn before(&mut self, folder: &Folder) -> Result<Vec<String>, RegistryError> {
        let failed = |error| folder.error("wait in", &folder.tickets(), error);
        let mut names = tickets(folder).map_err(failed)?;
        let own = match &self.ticket {
            Some(ticket) if names.binary_search(&ticket.name).is_ok() => ticket,
            _ => match Ticket::make(folder, self.mode, names.last())? {
                Some(ticket) => self.ticket.insert(ticket),
                None => return Ok(Vec::new()),
            },
        };
        names.retain(|name| *name < own.name);
        Ok(names)
    }
}

/// A file that this process holds locked. Removed when dropped.
struct Ticket {
    name: String,
    path: PathBuf,
    access: Access,
    _file: File,
}

impl Ticket {
    /// `None` if this user may only read the folder.
    fn make(
        folder: &Folder,
        mode: Mode,
        last: Option<&String>,
    ) -> Result<Option<Self>, RegistryError> {
        let (tickets, unique) = (folder.tickets(), random_u64());
        let draft = tickets.join(format!("new-{unique:016x}"));
        let file = match folder.create_new(&draft) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The other subfolders are created by the first registration.
                if folder.create_subfolder(&tickets).is_err() {
                    folder.create()?;
                }
                folder.create_new(&draft)
            }
            made => made,
        };
        let file = match file {
            Err(error)
                if private_files::hint(&error).is_none()
                    && matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
            {
                return Ok(None);
            }
            made => made.map_err(|error| folder.error("create", &draft, error))?,
        };
        let number = match mode {
            Mode::Shared => 0,
            Mode::Exclusive => last.and_then(|it| number(it)).unwrap_or_default().saturating_add(1),
        };
        let name = format!("{number:020}-{unique:016x}");
        let mut ticket = Self { name, path: draft, access: folder.access(), _file: file };
        let path = tickets.join(&ticket.name);
        ticket
            ._file
            .try_lock()
            .map_err(io::Error::from)
            .and_then(|()| folder.rename(&ticket.path, &path))
            .map_err(|error| folder.error("lock", &ticket.path, error))?;
        ticket.path = path;
        Ok(Some(ticket))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = private_files::remove(&self.path, self.access);
    }
}

fn number(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

/// The names of all tickets, in order.
fn tickets(folder: &Folder) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(folder.tickets()) {
        Ok(files) => {
            for file in files {
                let name = file?.file_name().into_string().unwrap_or_default();
                if number(&name).is_some() {
                    names.push(name);
                }
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether any of these tickets is live. Checks the last one first: usually it is the only one.
fn is_any_waiting(folder: &Folder, names: &[String]) -> Result<bool, RegistryError> {
    for name in names.iter().rev() {
        if is_waiting(folder, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the process of this ticket still waits. Removes the ticket if not.
fn is_waiting(folder: &Folder, name: &str) -> Result<bool, RegistryError> {
    let path = folder.tickets().join(name);
    let file = match folder.read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(folder.error("open", &path, error)),
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(folder.error("lock", &path, error)),
        Ok(()) => {
            let _ = folder.remove(&path);
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lock: &mut TicketLock, folder: &Folder) -> Option<TicketGuard> {
        match lock.try_lock(folder).unwrap() {
            Attempt::Locked(guard) => Some(guard),
            Attempt::RetryAfter(_) => None,
        }
    }

    #[test]
    fn the_lock_goes_to_those_who_wait_in_the_order_in_which_they_came() {
        let (_dir, folder) = Folder::temporary();
        let mut holder = taken(&mut TicketLock::new(Mode::Exclusive), &folder);
        let mut locks: Vec<_> = (0..10).map(|_| TicketLock::new(Mode::Exclusive)).collect();
        for lock in &mut locks {
            assert!(taken(lock, &folder).is_none());
        }
        for next in 0..locks.len() {
            drop(holder);
            // Neither a late arrival nor an early check makes a process the first.
            assert!(taken(&mut TicketLock::new(Mode::Exclusive), &folder).is_none());
            for later in &mut locks[next + 1..] {
                assert!(taken(later, &folder).is_none());
            }
            holder = taken(&mut locks[next], &folder);
            assert!(holder.is_some());
        }
        drop(holder);
        assert!(tickets(&folder).unwrap().is_empty());
    }

    #[test]
    fn a_reader_waits_for_the_lock_and_not_for_those_who_want_to_write() {
        let (_dir, folder) = Folder::temporary();
        let holder = taken(&mut TicketLock::new(Mode::Exclusive), &folder);
        let mut writer = TicketLock::new(Mode::Exclusive);
        assert!(taken(&mut writer, &folder).is_none());
        let mut readers = [TicketLock::new(Mode::Shared), TicketLock::new(Mode::Shared)];
        for reader in &mut readers {
            assert!(taken(reader, &folder).is_none());
        }
        drop(holder);
        assert!(taken(&mut writer, &folder).is_none());
        let reading = readers.each_mut().map(|reader| taken(reader, &folder));
        assert!(reading.iter().all(Option::is_some), "readers keep each other out");
        assert!(taken(&mut writer, &folder).is_none());
        drop(reading);
        assert!(taken(&mut writer, &folder).is_some());
    }

    #[test]
    fn who_gives_up_or_was_killed_holds_nobody_up() {
        let (_dir, folder) = Folder::temporary();
        let holder = taken(&mut TicketLock::new(Mode::Exclusive), &folder);
        let mut gives_up = TicketLock::new(Mode::Exclusive);
        assert!(taken(&mut gives_up, &folder).is_none());
        // What a killed process leaves: a ticket that is not locked.
        let killed = folder.tickets().join(format!("{:020}-dead", 7));
        File::create(&killed).unwrap();
        let mut last = TicketLock::new(Mode::Exclusive);
        assert!(taken(&mut last, &folder).is_none());
        drop((holder, gives_up));
        assert!(taken(&mut last, &folder).is_some());
        assert!(!killed.exists());
    }

    #[test]
    fn who_is_stopped_while_it_waits_loses_its_place_and_takes_another_ticket() {
        let (_dir, folder) = Folder::temporary();
        let holder = taken(&mut TicketLock::new(Mode::Exclusive), &folder);
        let (mut stopped, mut next) =
            (TicketLock::new(Mode::Exclusive), TicketLock::new(Mode::Exclusive));
        assert!(taken(&mut stopped, &folder).is_none() && taken(&mut next, &folder).is_none());
        drop(holder);
        assert!(taken(&mut next, &folder).is_none(), "the other one is first");
        next.first.1 = Instant::now().checked_sub(2 * GRACE).unwrap();
        let overtaking = taken(&mut next, &folder);
        assert!(overtaking.is_some());
        assert!(taken(&mut stopped, &folder).is_none());
        drop(overtaking);
        assert!(taken(&mut stopped, &folder).is_some());
    }

    #[test]
    fn a_lock_that_is_held_for_long_goes_to_the_first_all_the_same() {
        let (_dir, folder) = Folder::temporary();
        let holder = taken(&mut TicketLock::new(Mode::Exclusive), &folder);
        let mut locks = [TicketLock::new(Mode::Exclusive), TicketLock::new(Mode::Exclusive)];
        for lock in &mut locks {
            assert!(taken(lock, &folder).is_none());
            lock.first.1 = Instant::now().checked_sub(100 * GRACE).unwrap();
            assert!(taken(lock, &folder).is_none());
        }
        drop(holder);
        assert!(taken(&mut locks[1], &folder).is_none());
        assert!(taken(&mut locks[0], &folder).is_some());
    }

    #[test]
    fn the_timeout_names_the_file_and_the_holder() {
        let (_dir, folder) = Folder::temporary();
        let _held = lock::attempt(&folder, Mode::Exclusive).unwrap().unwrap();
        let patience = Duration::from_millis(20);
        let error = wait(&folder, Mode::Exclusive, patience).err().unwrap();
        assert!(error.is_timeout());
        let pid = format!("process {} ", std::process::id());
        for part in [folder.lock().to_str().unwrap(), &pid, "20ms", "lock_timeout"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
