//! Signs: how watchers hear of a change from the operating system.
//!
//! Watchers watch the folder `signs/`, where a sign is given by closing a file that was open for
//! writing: `list` after the list was replaced, and the one that is named after a beat when one of
//! its registrations ends. Its process keeps that open, so that the kernel gives the sign when the
//! process is killed.
//!
//! Why not watch the list and the leases themselves: the operating system also tells who opens a
//! file to read it. Each look of each process would wake all the others, and each attempt at a lock.

use std::collections::HashSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::broadcast;

use super::folder::Folder;
use super::list::List;
use super::site::{Site, lock};
use crate::RegistryError;

/// The sign of the list.
pub(super) const LIST: &str = "list";

/// Signs that come together are told as one: what a watch does costs more than a sign.
const GATHER: Duration = Duration::from_millis(5);
/// What a beat's sign says is told again until so much later, twice. When a process is killed, the
/// kernel closes its files one after the other, so its leases may not be free yet at the sign.
const ECHO: Duration = Duration::from_millis(300);
/// How much may be told before a slow watch is told to look at everything instead.
const BACKLOG: usize = 64;

/// Gives the sign of a beat. If that fails, watchers look anyway before long.
pub(super) fn give(folder: &Folder, beat: &str) {
    let _ = folder.write(&folder.sign(beat), false);
}

/// Says that the list was replaced.
pub(super) fn give_list(folder: &Folder) {
    let _ = folder.write(&folder.sign(LIST), true);
}

/// What watchers are told.
#[derive(Debug, Clone, Default)]
pub(super) struct News {
    /// It may be anything.
    pub(super) anything: bool,
    /// The list has changed.
    pub(super) list: bool,
    /// Registrations that name these beats may have ended.
    pub(super) beats: Arc<HashSet<String>>,
}

/// Watches a folder for all watches of this process; ends when it is dropped.
pub(super) struct Lookout {
    news: broadcast::Sender<News>,
    /// Wakes the thread.
    told: mpsc::Sender<Sign>,
}

enum Sign {
    Closed(String),
    Unclear,
    /// The folder is not watched any more.
    Lost,
}

impl Lookout {
    /// The lookout of this process. Besides listening to signs, it looks at the list's time each
    /// `interval`: a person who edits it gives no sign.
    pub(super) fn at(
        site: &Arc<Site>,
        folder: &Arc<Folder>,
        interval: Duration,
    ) -> Result<Arc<Self>, RegistryError> {
        let mut slot = lock(&site.lookout);
        if let Some(found) = slot.upgrade() {
            return Ok(found);
        }
        let (told, signs) = mpsc::channel();
        let made = Arc::new(Self { news: broadcast::channel(BACKLOG).0, told: told.clone() });
        let task = Task {
            lookout: Arc::downgrade(&made),
            site: Arc::downgrade(site),
            folder: Arc::clone(folder),
            interval,
            told,
            signs,
            has_warned: false,
        };
        let spawned = thread::Builder::new().name("registry-watch".to_owned());
        spawned.spawn(move || task.run()).map_err(|error| {
            RegistryError::unavailable(format!("no thread can be started: {error}"))
                .with_registry(folder.uri())
                .with_hint("watches need one")
                .with_source(error)
        })?;
        *slot = Arc::downgrade(&made);
        Ok(made)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        let _ = self.told.send(Sign::Unclear);
    }
}

struct Task {
    lookout: Weak<Lookout>,
    site: Weak<Site>,
    folder: Arc<Folder>,
    interval: Duration,
    told: mpsc::Sender<Sign>,
    signs: mpsc::Receiver<Sign>,
    has_warned: bool,
}

impl Task {
    fn run(mut self) {
        let mut watcher = None;
        let mut list = None;
        let mut glanced = Instant::now();
        let mut echo = Echo::default();
        loop {
            let mut news = News::default();
            if watcher.is_none() {
                watcher = self.watch();
                // What happened before is not told.
                news.anything = true;
            } else {
                let wait = self.interval.saturating_sub(glanced.elapsed()).min(echo.due_in());
                let mut beats = HashSet::new();
                if self.gather(wait, &mut news, &mut beats) {
                    watcher = None;
                }
                echo.take(&mut beats);
                news.beats = Arc::new(beats);
            }
            let (Some(lookout), Some(site)) = (self.lookout.upgrade(), self.site.upgrade()) else {
                return;
            };
            if glanced.elapsed() >= self.interval || news.anything {
                glanced = Instant::now();
                news.list |= self.has_changed(&site, &mut list);
                // Elsewhere it can't be heard that a process has ended.
                news.anything |= !cfg!(target_os = "linux");
            }
            if news.anything || news.list || !news.beats.is_empty() {
                // An error says that nobody listens right now.
                let _ = lookout.news.send(news);
            }
            drop((lookout, site));
            if watcher.is_none() {
                let _ = self.signs.recv_timeout(self.interval);
            }
        }
    }

    /// Waits for signs, and for what comes with them. Whether the folder is lost.
    fn gather(&self, wait: Duration, news: &mut News, beats: &mut HashSet<String>) -> bool {
        let mut lost = false;
        let mut patience = wait;
        let mut until = None;
        loop {
            match self.signs.recv_timeout(patience) {
                Ok(Sign::Closed(name)) if name == LIST => news.list = true,
                Ok(Sign::Closed(name)) => drop(beats.insert(name)),
                Ok(Sign::Unclear) => news.anything = true,
                Ok(Sign::Lost) => (news.anything, lost) = (true, true),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            let until = *until.get_or_insert_with(|| Instant::now() + GATHER);
            patience = until.saturating_duration_since(Instant::now());
        }
        lost
    }

    /// Whether the list is another one than at the last glance.
    fn has_changed(&self, site: &Site, last: &mut Option<Arc<List>>) -> bool {
        if let Some(last) = last
            && last.is_current(&self.folder).unwrap_or(false)
        {
            return false;
        }
        *last = site.list(&self.folder).ok();
        true
    }

    /// Begins to watch, unless there is nothing to watch yet.
    fn watch(&mut self) -> Option<RecommendedWatcher> {
        let path = self.folder.signs();
        self.folder.create_subfolder(&path).ok()?;
        let (told, folder) = (self.told.clone(), path.clone());
        let listen = move |event: notify::Result<notify::Event>| {
            let sign = match event {
                Ok(event) if event.need_rescan() => Some(Sign::Unclear),
                Ok(event) => sign(&event, &folder),
                Err(_) => Some(Sign::Unclear),
            };
            if let Some(sign) = sign {
                let _ = told.send(sign);
            }
        };
        let made = notify::recommended_watcher(listen).and_then(|mut watcher| {
            watcher.watch(&path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match made {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(
                        path = %path.display(), %error, interval = ?self.interval,
                        "the registry can't be watched through the operating system; looking again \
                         and again instead",
                    );
                }
                None
            }
        }
    }
}

/// What is told again.
#[derive(Default)]
struct Echo {
    since: Option<Instant>,
    young: HashSet<String>,
    old: HashSet<String>,
}

impl Echo {
    fn due_in(&self) -> Duration {
        self.since.map_or(Duration::MAX, |since| ECHO.saturating_sub(since.elapsed()))
    }

    /// Remembers these, and adds to them what is due.
    fn take(&mut self, beats: &mut HashSet<String>) {
        let fresh = beats.clone();
        if self.due_in().is_zero() {
            beats.extend(self.old.drain());
            beats.extend(self.young.iter().cloned());
            self.old = std::mem::take(&mut self.young);
            self.since = (!self.old.is_empty()).then(Instant::now);
        }
        if !fresh.is_empty() {
            self.since.get_or_insert_with(Instant::now);
            self.young.extend(fresh);
        }
    }
}

fn sign(event: &notify::Event, folder: &std::path::Path) -> Option<Sign> {
    let path = event.paths.first()?;
    if path == folder {
        return (event.kind.is_remove() || event.kind.is_modify()).then_some(Sign::Lost);
    }
    let name = path.file_name()?.to_str()?.to_owned();
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sign::Closed(name)),
        // Elsewhere files are not told to be closed.
        _ if !cfg!(target_os = "linux") => Some(Sign::Unclear),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;

    use tokio::sync::broadcast::Receiver;
    use tokio::time::timeout;

    use super::*;
    use crate::private_files::Access;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Fixture {
        _dir: tempfile::TempDir,
        folder: Arc<Folder>,
        site: Arc<Site>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::new(dir.path().to_owned(), "file:test", Access::Owner));
            let site = Site::at(dir.path());
            Self { _dir: dir, folder, site }
        }

        fn lookout(&self, interval: Duration) -> (Arc<Lookout>, Receiver<News>) {
            let lookout = Lookout::at(&self.site, &self.folder, interval).unwrap();
            let news = lookout.subscribe();
            (lookout, news)
        }
    }

    async fn next(news: &mut Receiver<News>) -> News {
        timeout(PATIENCE, news.recv()).await.expect("no sign was heard").unwrap()
    }

    /// One that is known to listen, with nothing left to be told.
    async fn watched(f: &Fixture) -> (Arc<Lookout>, Receiver<News>) {
        f.folder.create().unwrap();
        let (lookout, mut news) = f.lookout(Duration::from_secs(3600));
        let begun = Instant::now();
        loop {
            give_list(&f.folder);
            let heard = timeout(Duration::from_millis(50), news.recv()).await;
            if heard.is_ok_and(|news| news.unwrap().list) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "no sign was heard");
        }
        while timeout(Duration::from_millis(100), news.recv()).await.is_ok() {}
        (lookout, news)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn renewals_and_readers_wake_nobody() {
        let f = Fixture::new();
        let (_lookout, mut news) = watched(&f).await;
        for _ in 0..3 {
            let beat = File::create(f.folder.beat("beat")).unwrap();
            beat.set_modified(std::time::SystemTime::now()).unwrap();
            for path in [f.folder.list(), f.folder.lock(), f.folder.lease("lease")] {
                File::create(&path).unwrap();
                File::open(&path).unwrap().read_to_end(&mut Vec::new()).unwrap();
            }
        }
        let quiet = timeout(Duration::from_millis(200), news.recv()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_sign_of_a_beat_is_told_and_told_again() {
        let f = Fixture::new();
        let (_lookout, mut news) = watched(&f).await;
        let sign = File::create(f.folder.sign("beat")).unwrap();
        let quiet = timeout(Duration::from_millis(100), news.recv()).await;
        assert!(quiet.is_err(), "it is open still: {quiet:?}");
        drop(sign);
        for _ in 0..3 {
            assert!(next(&mut news).await.beats.contains("beat"));
        }
        let quiet = timeout(2 * ECHO, news.recv()).await;
        assert!(quiet.is_err(), "it does not end: {quiet:?}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn signs_that_come_together_are_told_as_one() {
        let f = Fixture::new();
        let (_lookout, mut news) = watched(&f).await;
        for _ in 0..100 {
            give_list(&f.folder);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut told = 0;
        while news.try_recv().is_ok_and(|news| news.list) {
            told += 1;
        }
        assert!((1..50).contains(&told), "told {told} times");
    }

    #[tokio::test]
    async fn where_nothing_can_be_watched_it_is_looked_again_and_again() {
        let f = Fixture::new();
        File::create(f.folder.signs()).unwrap();
        let (_lookout, mut news) = f.lookout(Duration::from_millis(10));
        for _ in 0..5 {
            assert!(next(&mut news).await.anything);
        }
    }

    #[tokio::test]
    async fn an_edit_that_gives_no_sign_is_found_all_the_same() {
        let f = Fixture::new();
        f.folder.create().unwrap();
        let (_lookout, mut news) = f.lookout(Duration::from_millis(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
        while news.try_recv().is_ok() {}
        fs::write(f.folder.list(), "{\"rpc_registry\":1}\n").unwrap();
        while !next(&mut news).await.list {}
    }
}
