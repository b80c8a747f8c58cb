use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// How many threads of the blocking pool look up in one folder at a time. A look takes
/// microseconds, so more would only take them from others.
const READERS: usize = 4;

/// Turns of the tasks of this process at one folder, however many connections to it there are.
///
/// The registry lock would be enough to keep them apart. But it is not fair and can only be tried
/// again and again, so that a thousand tasks would wait in vain where a queue serves all of them.
pub(super) struct Turns {
    pub(super) writers: tokio::sync::Mutex<()>,
    pub(super) readers: Semaphore,
}

static TURNS: LazyLock<Mutex<BTreeMap<PathBuf, Weak<Turns>>>> = LazyLock::new(Mutex::default);

impl Turns {
    /// The turns at the folder with this canonical path.
    pub(super) fn at(path: &Path) -> Arc<Self> {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = turns.get(path).and_then(Weak::upgrade) {
            return found;
        }
        turns.retain(|_, unused| unused.strong_count() > 0);
        let made = Arc::new(Self {
            writers: tokio::sync::Mutex::new(()),
            readers: Semaphore::new(READERS),
        });
        turns.insert(path.to_owned(), Arc::downgrade(&made));
        made
    }
}
