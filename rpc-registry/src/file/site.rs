use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Semaphore;

use super::beat::Beat;
use super::commit::Queue;
use super::folder::Folder;
use super::list::List;
use super::signs::Lookout;
use crate::RegistryError;

/// How many threads of the blocking pool look up in one folder at a time. A look takes
/// microseconds, so more would only take them from others.
const READERS: usize = 4;

/// What the tasks of this process share at one folder, however many connections to it there are.
pub(super) struct Site {
    /// The registry lock would be enough to keep writers apart. But it is not fair and can only be
    /// tried again and again, so that a thousand tasks would wait in vain where a queue serves all
    /// of them.
    pub(super) writers: tokio::sync::Mutex<()>,
    pub(super) readers: Semaphore,
    /// What is to be written by whoever has the turn.
    pub(super) queue: Queue,
    /// By lease time in milliseconds.
    pub(super) beats: Mutex<BTreeMap<u64, Weak<Beat>>>,
    pub(super) lookout: Mutex<Weak<Lookout>>,
    /// When files that nobody names were last looked for.
    pub(super) swept: Mutex<Option<Instant>>,
    /// The list as it was last read, so that it is read again only when it has changed.
    list: Mutex<Option<Arc<List>>>,
}

static SITES: LazyLock<Mutex<BTreeMap<PathBuf, Weak<Site>>>> = LazyLock::new(Mutex::default);

impl Site {
    /// The site at the folder with this canonical path.
    pub(super) fn at(path: &Path) -> Arc<Self> {
        let mut sites = lock(&SITES);
        if let Some(found) = sites.get(path).and_then(Weak::upgrade) {
            return found;
        }
        sites.retain(|_, unused| unused.strong_count() > 0);
        let made = Arc::new(Self {
            writers: tokio::sync::Mutex::new(()),
            readers: Semaphore::new(READERS),
            queue: Queue::default(),
            beats: Mutex::default(),
            lookout: Mutex::default(),
            swept: Mutex::default(),
            list: Mutex::default(),
        });
        sites.insert(path.to_owned(), Arc::downgrade(&made));
        made
    }

    /// The list as it is now.
    pub(super) fn list(&self, folder: &Folder) -> Result<Arc<List>, RegistryError> {
        let known = lock(&self.list).clone();
        if let Some(list) = &known
            && list.is_current(folder)?
        {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(List::read(folder, known.as_deref())?);
        self.note(Arc::clone(&list));
        Ok(list)
    }

    /// The list was replaced by this one.
    pub(super) fn note(&self, list: Arc<List>) {
        *lock(&self.list) = Some(list);
    }
}

/// What a panic left is as good as it was: nothing is changed in more than one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
