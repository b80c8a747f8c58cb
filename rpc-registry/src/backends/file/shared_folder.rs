use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Weak};

use tokio::sync::Semaphore;

use super::changes::Queue;
use super::list::ListCache;
use super::process_lease::ProcessLeases;
use super::sweep::Sweeper;
use super::watcher::FolderWatcher;

use crate::sync::Mutex;

/// Maximum number of threads of the blocking pool that read one folder at a time. A read takes
/// microseconds, so more threads would only delay other work.
const READERS: usize = 4;

/// What the tasks of this process share for one folder, however many connections to it there are.
pub(super) struct SharedFolder {
    /// Held by the task that writes. The registry lock alone would keep writers apart, but it is
    /// not fair and can only be polled: a thousand tasks would poll in vain where a queue serves
    /// them all.
    pub(super) writers: tokio::sync::Mutex<()>,
    pub(super) readers: Semaphore,
    /// The changes that the next writer writes.
    pub(super) queue: Queue,
    pub(super) process_leases: ProcessLeases,
    pub(super) watcher: Mutex<Weak<FolderWatcher>>,
    pub(super) sweeper: Sweeper,
    pub(super) lists: Arc<ListCache>,
}

static FOLDERS: LazyLock<Mutex<BTreeMap<PathBuf, Weak<SharedFolder>>>> =
    LazyLock::new(Mutex::default);

impl SharedFolder {
    /// The shared state of the folder with this canonical path.
    pub(super) fn at(path: &Path) -> Arc<Self> {
        let mut folders = FOLDERS.lock();
        if let Some(found) = folders.get(path).and_then(Weak::upgrade) {
            return found;
        }
        folders.retain(|_, unused| unused.strong_count() > 0);
        let made = Arc::new(Self {
            writers: tokio::sync::Mutex::new(()),
            readers: Semaphore::new(READERS),
            queue: Queue::default(),
            process_leases: ProcessLeases::default(),
            watcher: Mutex::default(),
            sweeper: Sweeper::default(),
            lists: Arc::default(),
        });
        folders.insert(path.to_owned(), Arc::downgrade(&made));
        made
    }
}
