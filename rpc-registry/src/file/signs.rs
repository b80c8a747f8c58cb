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
use std::fs::{self, OpenOptions};
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
/// How much may be told before a slow watch is told to look at everything instead.
const BACKLOG: usize = 64;

/// Gives the sign of a beat. If that fails, watchers look anyway before long.
pub(super) fn give(folder: &Folder, beat: &str) {
    let _ = OpenOptions::new().append(true).open(folder.sign(beat));
}

/// Says that the list was replaced.
pub(super) fn give_list(folder: &Folder) {
    let _ = OpenOptions::new().append(true).create(true).open(folder.sign(LIST));
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
        let made = Arc::new(Self { news: broadcast::channel(BACKLOG).0 });
        let (told, signs) = mpsc::channel();
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
        loop {
            let mut news = News::default();
            if watcher.is_none() {
                watcher = self.watch();
                // What happened before is not told.
                news.anything = true;
            } else {
                let wait = self.interval.saturating_sub(glanced.elapsed());
                if self.gather(wait, &mut news) {
                    watcher = None;
                }
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
                thread::sleep(self.interval);
            }
        }
    }

    /// Waits for signs, and for what comes with them. Whether the folder is lost.
    fn gather(&self, wait: Duration, news: &mut News) -> bool {
        let mut beats = HashSet::new();
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
        news.beats = Arc::new(beats);
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
        // Not the registry's folder itself: see `Folder::is_gone`.
        let _ = fs::create_dir(&path);
        if !path.is_dir() {
            return None;
        }
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
