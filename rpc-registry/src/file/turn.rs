//! Turns: processes get the registry lock in the order in which they came.
//!
//! The kernel's lock alone is not fair: a process that has just released it and wants it again is
//! faster than one that has to wake up first. So who waits has a ticket, a file in `turns/` whose name
//! begins with the next number and which it holds locked. It takes the lock when no living ticket is
//! before its own, and keeps the ticket until it gives the lock back.
//!
//! - *A ticket is locked before it has its name.* So one that is not locked is of a process that has
//!   ended, and is removed by whoever finds it.
//! - *A ticket goes before the lock does.* So if the lock is free although the first ticket is still the
//!   same, its process does not take its turn: it is stopped, or the machine leaves it no time. After
//!   [`GRACE`] the next one takes the lock and removes the tickets before its own. Who finds its ticket
//!   removed takes another one.
//! - *Readers go first.* One that keeps writers out, since the list changes faster than it can look,
//!   has the number 0 and waits only for the lock.
//! - *Only the order relies on tickets.* That one process writes at a time is the lock's to say, also
//!   with programs that know of no tickets.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::lock::{self, Locked, Mode};
use crate::RegistryError;
use crate::instance::random_bits;

/// For how long a process whose turn it is may leave the lock alone.
const GRACE: Duration = Duration::from_millis(500);
/// Those behind it wait so much longer, each for the one before it to act.
const STAGGER: Duration = Duration::from_millis(50);
/// How long to sleep for each ticket that is before one's own: less than a turn takes.
const EACH: Duration = Duration::from_micros(500);
/// The shortest sleep, of the first in the queue.
const SHORTEST: Duration = Duration::from_micros(250);
/// The longest sleep.
const LONGEST: Duration = Duration::from_millis(16);
/// Sleeps that are shorter are not worth giving the thread back.
const SHORT: Duration = Duration::from_millis(2);

/// Takes the lock in turn, blocking the thread for at most about `patience`.
pub(super) fn wait(folder: &Folder, mode: Mode, patience: Duration) -> Result<Held, RegistryError> {
    let started = Instant::now();
    let mut turn = Turn::new(mode);
    loop {
        match turn.look(folder)? {
            Outcome::Taken(held) => return Ok(held),
            Outcome::Later(pause) if started.elapsed() + pause > patience => {
                return Err(lock::timed_out(folder, patience));
            }
            Outcome::Later(pause) => thread::sleep(pause),
        }
    }
}

/// A place in the queue. Dropping it leaves the queue.
pub(super) struct Turn {
    mode: Mode,
    ticket: Option<Ticket>,
    /// Which ticket is the first, and since when.
    first: (String, Instant),
}

pub(super) enum Outcome {
    Taken(Held),
    /// To be looked again after this time.
    Later(Duration),
}

/// The lock is held until this is dropped.
pub(super) struct Held {
    // The order matters: see the module.
    _ticket: Option<Ticket>,
    _locked: Locked,
}

impl Turn {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, ticket: None, first: (String::new(), Instant::now()) }
    }

    /// Takes the lock if it is this one's turn. Sleeps up to `patience` for a turn that is near.
    pub(super) fn attempt_for(
        &mut self,
        folder: &Folder,
        patience: Duration,
    ) -> Result<Outcome, RegistryError> {
        let started = Instant::now();
        loop {
            match self.look(folder)? {
                Outcome::Later(pause) if pause < SHORT && started.elapsed() < patience => {
                    thread::sleep(pause);
                }
                outcome => return Ok(outcome),
            }
        }
    }

    fn look(&mut self, folder: &Folder) -> Result<Outcome, RegistryError> {
        let before = self.before(folder)?;
        let first = before.first().cloned().unwrap_or_default();
        if self.first.0 != first {
            self.first = (first, Instant::now());
        }
        let waited = self.first.1.elapsed();
        let many = u32::try_from(before.len()).unwrap_or(u32::MAX);
        let is_next = self.mode == Mode::Shared || !is_any_waiting(folder, &before)?;
        let may_try = is_next || waited > GRACE.saturating_add(STAGGER.saturating_mul(many));
        // If the first is another one now, the former was not stopped but writing.
        if may_try
            && let Some(locked) = lock::attempt(folder, self.mode)?
            && (is_next || self.before(folder)?.first() == Some(&self.first.0))
        {
            if !is_next {
                for name in &before {
                    let _ = fs::remove_file(folder.turns().join(name));
                }
            }
            return Ok(Outcome::Taken(Held { _ticket: self.ticket.take(), _locked: locked }));
        }
        let pause = EACH.saturating_mul(many).max(SHORTEST).max(waited / 8).min(LONGEST);
        Ok(Outcome::Later(pause))
    }

    /// The tickets before this one's, which is made if there is none.
    fn before(&mut self, folder: &Folder) -> Result<Vec<String>, RegistryError> {
        let failed = |error| folder.error("wait in", &folder.turns(), error);
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

/// A file that this process holds locked. Dropping it removes it.
struct Ticket {
    name: String,
    path: PathBuf,
    _file: File,
}

impl Ticket {
    /// `None` where this user may only read.
    fn make(
        folder: &Folder,
        mode: Mode,
        last: Option<&String>,
    ) -> Result<Option<Self>, RegistryError> {
        let (turns, unique) = (folder.turns(), random_bits());
        let draft = turns.join(format!("new-{unique:016x}"));
        let file = match folder.create_new(&draft) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The other subfolders come with the first registration.
                if folder.create_subfolder(&turns).is_err() {
                    folder.create()?;
                }
                folder.create_new(&draft)
            }
            made => made,
        };
        let file = match file {
            Err(error)
                if matches!(
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
        let mut ticket = Self { name, path: draft, _file: file };
        let path = turns.join(&ticket.name);
        ticket
            ._file
            .try_lock()
            .map_err(io::Error::from)
            .and_then(|()| fs::rename(&ticket.path, &path))
            .map_err(|error| folder.error("lock", &ticket.path, error))?;
        ticket.path = path;
        Ok(Some(ticket))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn number(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

/// The names of all tickets, in order.
fn tickets(folder: &Folder) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(folder.turns()) {
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

/// Whether one of these waits still. Looks at the nearest first: mostly that is the only one.
fn is_any_waiting(folder: &Folder, names: &[String]) -> Result<bool, RegistryError> {
    for name in names.iter().rev() {
        if is_waiting(folder, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the process of this ticket waits still. Removes it if not.
fn is_waiting(folder: &Folder, name: &str) -> Result<bool, RegistryError> {
    let path = folder.turns().join(name);
    let file = match folder.read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(folder.error("open", &path, error)),
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(folder.error("lock", &path, error)),
        Ok(()) => {
            let _ = fs::remove_file(&path);
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private_files::Access;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned(), "file:test", Access::Owner);
        folder.create().unwrap();
        (dir, folder)
    }

    fn taken(turn: &mut Turn, folder: &Folder) -> Option<Held> {
        match turn.look(folder).unwrap() {
            Outcome::Taken(held) => Some(held),
            Outcome::Later(_) => None,
        }
    }

    #[test]
    fn the_lock_goes_to_those_who_wait_in_the_order_in_which_they_came() {
        let (_dir, folder) = folder();
        let mut holder = taken(&mut Turn::new(Mode::Exclusive), &folder);
        let mut turns: Vec<_> = (0..10).map(|_| Turn::new(Mode::Exclusive)).collect();
        for turn in &mut turns {
            assert!(taken(turn, &folder).is_none());
        }
        for next in 0..turns.len() {
            drop(holder);
            // Whoever comes late, or is first to look, is not the first for that.
            assert!(taken(&mut Turn::new(Mode::Exclusive), &folder).is_none());
            for later in &mut turns[next + 1..] {
                assert!(taken(later, &folder).is_none());
            }
            holder = taken(&mut turns[next], &folder);
            assert!(holder.is_some());
        }
        drop(holder);
        assert!(tickets(&folder).unwrap().is_empty());
    }

    #[test]
    fn a_reader_waits_for_the_lock_and_not_for_those_who_want_to_write() {
        let (_dir, folder) = folder();
        let holder = taken(&mut Turn::new(Mode::Exclusive), &folder);
        let mut writer = Turn::new(Mode::Exclusive);
        assert!(taken(&mut writer, &folder).is_none());
        let mut readers = [Turn::new(Mode::Shared), Turn::new(Mode::Shared)];
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
        let (_dir, folder) = folder();
        let holder = taken(&mut Turn::new(Mode::Exclusive), &folder);
        let mut gives_up = Turn::new(Mode::Exclusive);
        assert!(taken(&mut gives_up, &folder).is_none());
        // What a killed process leaves: a ticket that is not locked.
        let killed = folder.turns().join(format!("{:020}-dead", 7));
        File::create(&killed).unwrap();
        let mut last = Turn::new(Mode::Exclusive);
        assert!(taken(&mut last, &folder).is_none());
        drop((holder, gives_up));
        assert!(taken(&mut last, &folder).is_some());
        assert!(!killed.exists());
    }

    #[test]
    fn who_is_stopped_while_it_waits_loses_its_place_and_takes_another_ticket() {
        let (_dir, folder) = folder();
        let holder = taken(&mut Turn::new(Mode::Exclusive), &folder);
        let (mut stopped, mut next) = (Turn::new(Mode::Exclusive), Turn::new(Mode::Exclusive));
        assert!(taken(&mut stopped, &folder).is_none() && taken(&mut next, &folder).is_none());
        drop(holder);
        assert!(taken(&mut next, &folder).is_none(), "it is the other one's turn");
        next.first.1 = Instant::now().checked_sub(2 * GRACE).unwrap();
        let overtaking = taken(&mut next, &folder);
        assert!(overtaking.is_some());
        assert!(taken(&mut stopped, &folder).is_none());
        drop(overtaking);
        assert!(taken(&mut stopped, &folder).is_some());
    }

    #[test]
    fn a_lock_that_is_held_for_long_goes_to_the_first_all_the_same() {
        let (_dir, folder) = folder();
        let holder = taken(&mut Turn::new(Mode::Exclusive), &folder);
        let mut turns = [Turn::new(Mode::Exclusive), Turn::new(Mode::Exclusive)];
        for turn in &mut turns {
            assert!(taken(turn, &folder).is_none());
            turn.first.1 = Instant::now().checked_sub(100 * GRACE).unwrap();
            assert!(taken(turn, &folder).is_none());
        }
        drop(holder);
        assert!(taken(&mut turns[1], &folder).is_none());
        assert!(taken(&mut turns[0], &folder).is_some());
    }

    #[test]
    fn the_timeout_names_the_file_and_the_holder() {
        let (_dir, folder) = folder();
        let _held = lock::attempt(&folder, Mode::Exclusive).unwrap().unwrap();
        let patience = Duration::from_millis(20);
        let error = wait(&folder, Mode::Exclusive, patience).err().unwrap();
        assert!(error.is_timeout());
        let pid = format!("process {} ", std::process::id());
        for part in [folder.lock().to_str().unwrap(), &pid, "20ms", "lock_timeout_ms"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
