//! [`FolderWatcher`]: reports changes of a folder to all feeds of this process.
//!
//! It receives the [signals](super::signals) of other processes through the operating system, and
//! polls for changes that send no signal.

use std::collections::HashSet;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::broadcast;

use super::folder::Folder;
use super::list::{List, ListCache};
use super::signals;
use crate::RegistryError;
use crate::sync::Mutex;

/// Signals within this time are reported together: handling a report costs more than a signal.
const GATHER: Duration = Duration::from_millis(5);
/// The signal of a process lease is reported again after this time, twice. When a process is
/// killed, the kernel closes its files one after the other, so its leases may still be held when
/// the signal arrives.
const REPEAT: Duration = Duration::from_millis(300);
/// Maximum reports that a slow feed is behind. After that it checks everything.
const BACKLOG: usize = 64;

/// The changes that a watcher reports.
#[derive(Debug, Clone, Default)]
pub(super) struct WatchEvents {
    /// Whether anything may have changed.
    pub(super) all: bool,
    /// Whether the list has changed.
    pub(super) list: bool,
    /// The process leases of which registrations may have ended.
    pub(super) process_leases: Arc<HashSet<String>>,
}

/// Watches a folder for all feeds of this process. Ends when it is dropped.
pub(super) struct FolderWatcher {
    events: broadcast::Sender<WatchEvents>,
    /// Wakes the thread.
    inputs: mpsc::Sender<Input>,
}

/// An event of the operating system.
enum Input {
    /// The signal with this name was sent.
    Signal(String),
    /// Events may have been lost.
    Unclear,
    /// The folder is not watched any more.
    Lost,
}

impl FolderWatcher {
    /// The watcher of this process, which is started if there is none. It polls the time of the
    /// list at each `interval`: a person who edits the list sends no signal.
    pub(super) fn shared(
        slot: &Mutex<Weak<Self>>,
        folder: &Arc<Folder>,
        lists: &Arc<ListCache>,
        interval: Duration,
    ) -> Result<Arc<Self>, RegistryError> {
        let mut slot = slot.lock();
        if let Some(found) = slot.upgrade() {
            return Ok(found);
        }
        let (sender, inputs) = mpsc::channel();
        let made = Arc::new(Self { events: broadcast::channel(BACKLOG).0, inputs: sender.clone() });
        let thread = WatchThread {
            watcher: Arc::downgrade(&made),
            lists: Arc::clone(lists),
            folder: Arc::clone(folder),
            interval,
            sender,
            inputs,
            has_warned: false,
        };
        let spawned = thread::Builder::new().name("registry-watch".to_owned());
        spawned.spawn(move || thread.run()).map_err(|error| {
            RegistryError::unavailable(format!("no thread can be started: {error}"))
                .with_registry(folder.uri())
                .with_hint("watches need one")
                .with_source(error)
        })?;
        *slot = Arc::downgrade(&made);
        Ok(made)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<WatchEvents> {
        self.events.subscribe()
    }
}

impl Drop for FolderWatcher {
    fn drop(&mut self) {
        let _ = self.inputs.send(Input::Unclear);
    }
}

struct WatchThread {
    watcher: Weak<FolderWatcher>,
    lists: Arc<ListCache>,
    folder: Arc<Folder>,
    interval: Duration,
    sender: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    has_warned: bool,
}

impl WatchThread {
    fn run(mut self) {
        let mut os_watcher = None;
        let mut list = None;
        let mut polled = Instant::now();
        let mut repeats = Repeats::default();
        loop {
            let mut events = WatchEvents::default();
            if os_watcher.is_none() {
                os_watcher = self.watch();
                // Earlier changes are not reported.
                events.all = true;
            } else {
                let wait = self.interval.saturating_sub(polled.elapsed()).min(repeats.due_in());
                let mut leases = HashSet::new();
                if self.gather(wait, &mut events, &mut leases) {
                    os_watcher = None;
                }
                repeats.add(&mut leases);
                events.process_leases = Arc::new(leases);
            }
            let Some(watcher) = self.watcher.upgrade() else { return };
            if polled.elapsed() >= self.interval || events.all {
                polled = Instant::now();
                events.list |= self.has_changed(&mut list);
                // On other systems, the end of a process sends no signal.
                events.all |= !cfg!(target_os = "linux");
            }
            if events.all || events.list || !events.process_leases.is_empty() {
                // Fails if there is no feed at the moment.
                let _ = watcher.events.send(events);
            }
            drop(watcher);
            if os_watcher.is_none() {
                let _ = self.inputs.recv_timeout(self.interval);
            }
        }
    }

    /// Waits for events, and gathers those that follow closely. Returns whether the folder is lost.
    fn gather(
        &self,
        wait: Duration,
        events: &mut WatchEvents,
        leases: &mut HashSet<String>,
    ) -> bool {
        let mut is_lost = false;
        let mut wait = wait;
        let mut until = None;
        loop {
            match self.inputs.recv_timeout(wait) {
                Ok(Input::Signal(name)) if name == signals::LIST => events.list = true,
                Ok(Input::Signal(name)) => drop(leases.insert(name)),
                Ok(Input::Unclear) => events.all = true,
                Ok(Input::Lost) => (events.all, is_lost) = (true, true),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            let until = *until.get_or_insert_with(|| Instant::now() + GATHER);
            wait = until.saturating_duration_since(Instant::now());
        }
        is_lost
    }

    /// Whether the list has changed since the last poll.
    fn has_changed(&self, last: &mut Option<Arc<List>>) -> bool {
        if let Some(last) = last
            && last.is_current(&self.folder).unwrap_or(false)
        {
            return false;
        }
        *last = self.lists.current(&self.folder).ok();
        true
    }

    /// Starts to watch through the operating system. `None` if that is not possible now.
    fn watch(&mut self) -> Option<RecommendedWatcher> {
        let path = self.folder.signals();
        self.folder.create_subfolder(&path).ok()?;
        let (sender, folder) = (self.sender.clone(), path.clone());
        let listen = move |event: notify::Result<notify::Event>| {
            let input = match event {
                Ok(event) if event.need_rescan() => Some(Input::Unclear),
                Ok(event) => input(&event, &folder),
                Err(_) => Some(Input::Unclear),
            };
            if let Some(input) = input {
                let _ = sender.send(input);
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
                        "the registry can't be watched through the operating system; it is polled \
                         instead",
                    );
                }
                None
            }
        }
    }
}

/// The process leases that are to be reported again.
#[derive(Default)]
struct Repeats {
    since: Option<Instant>,
    /// Reported once.
    first: HashSet<String>,
    /// Reported twice.
    second: HashSet<String>,
}

impl Repeats {
    fn due_in(&self) -> Duration {
        self.since.map_or(Duration::MAX, |since| REPEAT.saturating_sub(since.elapsed()))
    }

    /// Notes these process leases, and adds those that are to be reported again now.
    fn add(&mut self, leases: &mut HashSet<String>) {
        let new = leases.clone();
        if self.due_in().is_zero() {
            leases.extend(self.second.drain());
            leases.extend(self.first.iter().cloned());
            self.second = std::mem::take(&mut self.first);
            self.since = (!self.second.is_empty()).then(Instant::now);
        }
        if !new.is_empty() {
            self.since.get_or_insert_with(Instant::now);
            self.first.extend(new);
        }
    }
}

fn input(event: &notify::Event, folder: &Path) -> Option<Input> {
    let path = event.paths.first()?;
    if path == folder {
        return (event.kind.is_remove() || event.kind.is_modify()).then_some(Input::Lost);
    }
    let name = path.file_name()?.to_str()?.to_owned();
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Input::Signal(name)),
        // Other systems do not report that a file is closed.
        _ if !cfg!(target_os = "linux") => Some(Input::Unclear),
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
        slot: Mutex<Weak<FolderWatcher>>,
        lists: Arc<ListCache>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::new(dir.path().to_owned(), "file:test", Access::Owner));
            let (slot, lists) = Default::default();
            Self { _dir: dir, folder, slot, lists }
        }

        fn watcher(&self, interval: Duration) -> (Arc<FolderWatcher>, Receiver<WatchEvents>) {
            let (slot, lists) = (&self.slot, &self.lists);
            let watcher = FolderWatcher::shared(slot, &self.folder, lists, interval).unwrap();
            let events = watcher.subscribe();
            (watcher, events)
        }
    }

    async fn next(events: &mut Receiver<WatchEvents>) -> WatchEvents {
        timeout(PATIENCE, events.recv()).await.expect("no signal was received").unwrap()
    }

    /// A watcher that is known to listen, with no event left.
    async fn watched(f: &Fixture) -> (Arc<FolderWatcher>, Receiver<WatchEvents>) {
        f.folder.create().unwrap();
        let (watcher, mut events) = f.watcher(Duration::from_secs(3600));
        let begun = Instant::now();
        loop {
            signals::send_list(&f.folder);
            let heard = timeout(Duration::from_millis(50), events.recv()).await;
            if heard.is_ok_and(|events| events.unwrap().list) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "no signal was received");
        }
        while timeout(Duration::from_millis(100), events.recv()).await.is_ok() {}
        (watcher, events)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn renewals_and_readers_wake_nobody() {
        let f = Fixture::new();
        let (_watcher, mut events) = watched(&f).await;
        for _ in 0..3 {
            let lease = File::create(f.folder.process_lease("lease")).unwrap();
            lease.set_modified(std::time::SystemTime::now()).unwrap();
            for path in [f.folder.list(), f.folder.lock(), f.folder.lease("lease")] {
                File::create(&path).unwrap();
                File::open(&path).unwrap().read_to_end(&mut Vec::new()).unwrap();
            }
        }
        let quiet = timeout(Duration::from_millis(200), events.recv()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_signal_of_a_process_lease_is_reported_and_reported_again() {
        let f = Fixture::new();
        let (_watcher, mut events) = watched(&f).await;
        let signal = File::create(f.folder.signal("lease")).unwrap();
        let quiet = timeout(Duration::from_millis(100), events.recv()).await;
        assert!(quiet.is_err(), "it is open still: {quiet:?}");
        drop(signal);
        for _ in 0..3 {
            assert!(next(&mut events).await.process_leases.contains("lease"));
        }
        let quiet = timeout(2 * REPEAT, events.recv()).await;
        assert!(quiet.is_err(), "it does not end: {quiet:?}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn signals_that_come_together_are_reported_as_one() {
        let f = Fixture::new();
        let (_watcher, mut events) = watched(&f).await;
        for _ in 0..100 {
            signals::send_list(&f.folder);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut told = 0;
        while events.try_recv().is_ok_and(|events| events.list) {
            told += 1;
        }
        assert!((1..50).contains(&told), "told {told} times");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_watched_is_polled() {
        let f = Fixture::new();
        File::create(f.folder.signals()).unwrap();
        let (_watcher, mut events) = f.watcher(Duration::from_millis(10));
        for _ in 0..5 {
            assert!(next(&mut events).await.all);
        }
    }

    #[tokio::test]
    async fn an_edit_that_sends_no_signal_is_found_all_the_same() {
        let f = Fixture::new();
        f.folder.create().unwrap();
        let (_watcher, mut events) = f.watcher(Duration::from_millis(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
        while events.try_recv().is_ok() {}
        fs::write(f.folder.list(), "{\"rpc_registry\":1}\n").unwrap();
        while !next(&mut events).await.list {}
    }
}
