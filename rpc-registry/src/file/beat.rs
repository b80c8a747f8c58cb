//! Beats: that a provider still does something is said by a time that it renews.
//!
//! The kernel says who is dead. It does not say who is stopped, or on a machine that stands still.
//! So each process has a file `beats/<name>`, whose modification time it sets at a third of the
//! lease time. The entries of the process name it, and count no more once it is older than the lease
//! time that they state. One file serves all registrations of a process with the same lease time:
//! ten thousand of them are renewed by one system call.
//!
//! The thread that renews does nothing else, and belongs to no pool, so that it never waits for work.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::folder::Folder;
use super::format::BeatRef;
use super::lease::{self, Fate, LeaseFile, unique_name};
use super::signs;
use super::site::{Site, lock};
use crate::RegistryError;

/// Keeps the registrations of this process that have the same lease time. Ends when it is dropped.
pub(super) struct Beat {
    name: String,
    ttl: Duration,
    folder: Arc<Folder>,
    site: Arc<Site>,
    state: Mutex<State>,
    /// Open for writing as long as the process lives, so that watchers hear when the kernel closes it.
    _sign: File,
    /// The thread ends when this is gone.
    _alive: mpsc::Sender<Infallible>,
}

struct State {
    /// By the names of their leases.
    members: HashMap<String, Member>,
    /// The leases of those whose lines were lost, and since when. They are held until their successors
    /// are there: freeing them would say that the provider is dead, and it is not.
    lost: Vec<(Instant, LeaseFile)>,
    renewed: Instant,
    /// It was too late once, and is not renewed any more.
    spent: Option<RegistryError>,
    /// Why the last renewal failed.
    failed: Option<io::Error>,
}

struct Member {
    lease: LeaseFile,
    lost: oneshot::Sender<RegistryError>,
}

impl Beat {
    /// The beat of this process for this lease time. The caller holds the exclusive registry lock.
    pub(super) fn at(
        site: &Arc<Site>,
        folder: &Arc<Folder>,
        ttl: Duration,
    ) -> Result<Arc<Self>, RegistryError> {
        let key = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut beats = lock(&site.beats);
        if let Some(beat) = beats.get(&key).and_then(Weak::upgrade)
            && beat.is_in_time()
            && beat.is_in_place()
        {
            return Ok(beat);
        }
        let made = Self::start(Arc::clone(site), Arc::clone(folder), ttl)?;
        beats.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    fn start(
        site: Arc<Site>,
        folder: Arc<Folder>,
        ttl: Duration,
    ) -> Result<Arc<Self>, RegistryError> {
        let name = unique_name(&std::process::id().to_string());
        let path = folder.sign(&name);
        let sign =
            folder.create_new(&path).map_err(|error| folder.error("create", &path, error))?;
        let renewed = Instant::now();
        touch(&folder, &name).map_err(|error| folder.error("write", &folder.beat(&name), error))?;
        let (alive, ends) = mpsc::channel();
        let (members, lost) = Default::default();
        let state = Mutex::new(State { members, lost, renewed, spent: None, failed: None });
        let beat = Self { name, ttl, folder, site, state, _sign: sign, _alive: alive };
        let beat = Arc::new(beat);
        let weak = Arc::downgrade(&beat);
        thread::Builder::new()
            .name("registry-beat".to_owned())
            .spawn(move || keep(&weak, ttl, &ends))
            .map_err(|error| {
                RegistryError::unavailable(format!("no thread can be started: {error}"))
                    .with_registry(beat.folder.uri())
                    .with_hint("a registration needs one that renews it")
                    .with_source(error)
            })?;
        Ok(beat)
    }

    /// What an entry says about it.
    pub(super) fn reference(&self) -> BeatRef {
        BeatRef { name: self.name.clone(), ttl: self.ttl }
    }

    fn is_in_time(&self) -> bool {
        let state = lock(&self.state);
        state.spent.is_none() && state.renewed.elapsed() < self.ttl
    }

    /// Somebody may have deleted its files, and the next renewal may be far away.
    fn is_in_place(&self) -> bool {
        self.folder.beat(&self.name).exists() && self.folder.sign(&self.name).exists()
    }

    /// Keeps a lease whose entry is in the list. `lost` hears if that is not so any more.
    pub(super) fn join(&self, lease: LeaseFile, lost: oneshot::Sender<RegistryError>) {
        let mut state = lock(&self.state);
        if let Some(late) = &state.spent {
            let _ = lost.send(late.clone());
            return;
        }
        state.members.insert(lease.name().to_owned(), Member { lease, lost });
    }

    /// Gives a lease back, at once for everyone. Whether it was still kept.
    pub(super) fn leave(&self, lease: &str) -> bool {
        let mut state = lock(&self.state);
        if state.spent.is_some() {
            return false;
        }
        let left = state.members.remove(lease);
        drop(state);
        let was_kept = left.is_some();
        drop(left);
        if was_kept {
            signs::give(&self.folder, &self.name);
        }
        was_kept
    }

    /// Whether it goes on.
    fn renew(&self) -> bool {
        let begun = Instant::now();
        if self.is_late() {
            return false;
        }
        let touched = touch(&self.folder, &self.name);
        // It may have been stopped between the question and the answer.
        if self.is_late() {
            return false;
        }
        let mut state = lock(&self.state);
        match touched {
            Ok(()) => (state.renewed, state.failed) = (begun, None),
            Err(error) => {
                if state.failed.is_none() && !self.folder.is_gone() {
                    let path = self.folder.beat(&self.name);
                    tracing::warn!(path = %path.display(), %error, "registrations can't be renewed");
                }
                state.failed = Some(error);
            }
        }
        state.lost.retain(|(since, _)| since.elapsed() < self.ttl);
        drop(state);
        self.check();
        true
    }

    fn has_lost(&self) -> bool {
        !lock(&self.state).lost.is_empty()
    }

    /// Once the lease time is over, everyone may have taken the registrations for lapsed.
    fn is_late(&self) -> bool {
        let mut state = lock(&self.state);
        let since = state.renewed.elapsed();
        if since < self.ttl {
            return false;
        }
        let what = match &state.failed {
            Some(error) => format!("the lease could not be renewed for {since:.1?}: {error}"),
            None => format!("the process stood still for {since:.1?}"),
        };
        let error = RegistryError::unavailable(format!("{what}; its lease time is {:?}", self.ttl))
            .with_registry(self.folder.uri());
        state.spent = Some(error.clone());
        for (name, Member { lease, lost }) in std::mem::take(&mut state.members) {
            // An administrator does not want it back; see `check`.
            if !lease::fate(&self.folder, &name).is_ok_and(|fate| fate == Fate::Removed) {
                let _ = lost.send(error.clone());
            }
            state.lost.push((Instant::now(), lease));
        }
        true
    }

    /// Finds registrations that others can't see any more.
    fn check(&self) {
        let leases: Vec<_> = lock(&self.state).members.keys().cloned().collect();
        // While the list can't be read it is not known.
        let Ok(list) = self.site.list(&self.folder) else { return };
        if list.intact(&self.folder).is_err() {
            return;
        }
        let listed: HashSet<_> = list.readable().iter().map(|e| e.lease.as_str()).collect();
        for lease in leases {
            let is_listed = listed.contains(lease.as_str());
            let path = self.folder.lease(&lease);
            let what = match lease::fate(&self.folder, &lease) {
                Ok(Fate::InPlace) if is_listed => continue,
                Ok(Fate::InPlace) => "the line was deleted from the list".to_owned(),
                Ok(Fate::Missing) => format!("the file {} was deleted", path.display()),
                Ok(Fate::Removed) => {
                    // `lost` never hears of that: the administrator does not want it back.
                    lock(&self.state).members.remove(&lease);
                    continue;
                }
                Err(_) => continue,
            };
            let mut state = lock(&self.state);
            if let Some(Member { lease, lost }) = state.members.remove(&lease) {
                let error = RegistryError::unavailable(what).with_registry(self.folder.uri());
                let _ = lost.send(error);
                state.lost.push((Instant::now(), lease));
            }
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let _ = self.folder.remove(&self.folder.beat(&self.name));
        let _ = self.folder.remove(&self.folder.sign(&self.name));
    }
}

fn keep(beat: &Weak<Beat>, ttl: Duration, ends: &mpsc::Receiver<Infallible>) {
    // While there are leases of lost registrations to be held, maybe by nobody else.
    let mut _held = None;
    while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(ttl / 3) {
        let Some(beat) = beat.upgrade() else { return };
        if !beat.renew() {
            thread::sleep(ttl);
            return;
        }
        _held = beat.has_lost().then_some(beat);
    }
}

/// Renews the beat; makes its file if that is missing.
fn touch(folder: &Folder, name: &str) -> io::Result<()> {
    let path = folder.beat(name);
    let file = match folder.write(&path, true) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            folder.create_subfolder(&folder.beats())?;
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

    const TTL: Duration = Duration::from_secs(1);

    struct Fixture {
        _dir: tempfile::TempDir,
        folder: Arc<Folder>,
        site: Arc<Site>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::new(dir.path().to_owned(), "file:test", Access::Owner));
            folder.create().unwrap();
            let site = Site::at(dir.path());
            Self { _dir: dir, folder, site }
        }

        fn beat(&self) -> Arc<Beat> {
            Beat::at(&self.site, &self.folder, TTL).unwrap()
        }

        fn join(&self, beat: &Beat) -> (String, oneshot::Receiver<RegistryError>) {
            let lease = LeaseFile::create(&self.folder, "a").unwrap();
            let (name, (lost, hears)) = (lease.name().to_owned(), oneshot::channel());
            beat.join(lease, lost);
            (name, hears)
        }
    }

    /// As if the process had been stopped for its lease time.
    fn stand_still(beat: &Beat) {
        lock(&beat.state).renewed = Instant::now().checked_sub(TTL).unwrap();
        assert!(!beat.renew());
    }

    #[test]
    fn registrations_with_the_same_lease_time_share_a_beat_until_nobody_needs_it() {
        let f = Fixture::new();
        let (one, two) = (f.beat(), f.beat());
        assert!(Arc::ptr_eq(&one, &two));
        let other = Beat::at(&f.site, &f.folder, 2 * TTL).unwrap();
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, two, other));
        let gone = || fs::read_dir(f.folder.beats()).unwrap().count() == 0;
        // Its thread may be looking at it just now.
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(20), "a beat is left");
        }
    }

    #[test]
    fn who_stood_still_hears_of_it_and_frees_nothing_and_is_not_renewed() {
        let f = Fixture::new();
        let beat = f.beat();
        let (lease, mut hears) = f.join(&beat);
        let renewed = || fs::metadata(f.folder.beat(&beat.name)).unwrap().modified().unwrap();
        let before = renewed();
        stand_still(&beat);
        assert!(hears.try_recv().unwrap().to_string().contains("stood still"));
        assert!(!beat.leave(&lease), "it is not kept any more");
        assert!(lease::is_held(&f.folder, &lease).unwrap(), "it looks as if it were dead");
        assert_eq!(renewed(), before);
        let (_, mut late) = f.join(&beat);
        assert!(late.try_recv().is_ok(), "who joins later must hear of it too");
        assert!(!Arc::ptr_eq(&beat, &f.beat()), "a new registration needs another beat");
    }

    #[test]
    fn who_was_removed_by_an_administrator_hears_nothing_even_if_it_stood_still() {
        let f = Fixture::new();
        let beat = f.beat();
        let (removed, mut silent) = f.join(&beat);
        let (_, mut hears) = f.join(&beat);
        lease::remove(&f.folder, &removed).unwrap();
        stand_still(&beat);
        assert!(hears.try_recv().is_ok());
        assert!(matches!(silent.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}
