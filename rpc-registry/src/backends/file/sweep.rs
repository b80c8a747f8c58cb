//! Removes what processes have left that did not end in order.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::folder::Folder;
use super::format::ListEntry;
use super::lease::{is_free, is_plain};
use super::list::List;
use super::signals;
use crate::RegistryError;
use crate::random::random_index;
use crate::sync::Mutex;

/// How many entries a write checks. It continues as long as half of them are dead. So a write costs
/// about as much in a long list as in a short one, and the entries of a large process that was
/// killed are soon removed.
const SAMPLE: usize = 32;
/// How often a process looks for unused files.
const FILES_EVERY: Duration = Duration::from_secs(60);
/// A process lease that was not renewed for this time is unused: longer than the longest lease
/// time.
const ABANDONED: Duration = Duration::from_secs(1200);

/// Some of the dead entries.
pub(super) fn some_dead(
    list: &List,
    mut is_dead: impl FnMut(&ListEntry) -> Result<bool, RegistryError>,
) -> Vec<Arc<ListEntry>> {
    let entries = list.readable();
    let (later, first) = entries.split_at(random_index(entries.len()));
    let around: Vec<_> = first.iter().chain(later).collect();
    let mut dead = Vec::new();
    for sample in around.chunks(SAMPLE) {
        let before = dead.len();
        // An entry that cannot be checked stays.
        dead.extend(sample.iter().filter(|e| is_dead(e).unwrap_or(false)).map(|e| Arc::clone(e)));
        if (dead.len() - before) * 2 < sample.len() {
            break;
        }
    }
    dead
}

/// Removes the lease file of a dead provider.
pub(super) fn remove_lease(folder: &Folder, name: &str) {
    let _ = folder.remove(&folder.lease(name));
}

/// Removes unused files from time to time.
#[derive(Default)]
pub(super) struct Sweeper {
    last: Mutex<Option<Instant>>,
}

impl Sweeper {
    /// Removes the files that `list` does not name and that are not locked, if that was not done
    /// recently. The caller holds the exclusive registry lock. Unused files do no harm, so failures
    /// are ignored.
    pub(super) fn sweep(&self, folder: &Folder, list: &List) {
        {
            let mut last = self.last.lock();
            if last.is_some_and(|last| last.elapsed() < FILES_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        remove_unused(folder, list.readable());
    }
}

fn remove_unused(folder: &Folder, entries: &[Arc<ListEntry>]) {
    let leases: HashSet<_> = entries.iter().map(|entry| entry.lease.as_str()).collect();
    each(&folder.leases(), |path, name| {
        let plain = name.strip_suffix(".lock").or_else(|| name.strip_suffix(".removed"));
        if plain.is_some_and(|it| is_plain(it) && !leases.contains(it)) && is_free(folder, path) {
            let _ = folder.remove(path);
        }
    });
    each(&folder.tickets(), |path, _| {
        if is_old(path) && is_free(folder, path) {
            let _ = folder.remove(path);
        }
    });
    let used: HashSet<_> = entries
        .iter()
        .filter_map(|entry| Some(entry.process_lease.as_ref()?.name.as_str()))
        .collect();
    for subfolder in [folder.process_leases(), folder.signals()] {
        each(&subfolder, |path, name| {
            let is_other = name == signals::LIST || !is_plain(name);
            // A signal is as old as its process, whose process lease is renewed.
            let is_abandoned = is_old(path) && is_old(&folder.process_lease(name));
            if !is_other && !used.contains(name) && is_abandoned {
                let _ = folder.remove(path);
            }
        });
    }
}

fn each(folder: &Path, mut visit: impl FnMut(&Path, &str)) {
    let Ok(files) = fs::read_dir(folder) else { return };
    for path in files.flatten().map(|file| file.path()) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            visit(&path, name);
        }
    }
}

fn is_old(path: &Path) -> bool {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
    modified.map_or(true, |modified| {
        SystemTime::now().duration_since(modified).is_ok_and(|age| age > ABANDONED)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::Instance;
    use crate::backends::file::lease::LeaseFile;
    use crate::backends::file::list;

    fn entry(id: usize) -> Arc<ListEntry> {
        let instance = Instance::new("svc", "tcp://h:1").with_id(id.to_string());
        Arc::new(ListEntry::new(instance, format!("lease-{id}"), None).unwrap())
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names = Vec::new();
        each(path, |_, name| names.push(name.to_owned()));
        names.sort();
        names
    }

    #[test]
    fn sweeping_removes_what_is_free_and_not_named_and_nothing_else() {
        let (_dir, folder) = Folder::temporary();
        let held = LeaseFile::create(&folder, "held").unwrap();
        for name in ["free.lock", "gone.removed", "lease-1.lock", "README", "not a name.lock"] {
            File::create(folder.leases().join(name)).unwrap();
        }
        remove_unused(&folder, &[entry(1)]);
        let held = format!("{}.lock", held.name());
        assert_eq!(names(&folder.leases()), ["README", &held, "lease-1.lock", "not a name.lock"]);
    }

    #[test]
    fn old_process_leases_that_are_not_named_are_removed_with_their_signals() {
        let (_dir, folder) = Folder::temporary();
        let old = SystemTime::now() - 2 * ABANDONED;
        for (name, renewed) in [("old", old), ("living", SystemTime::now())] {
            File::create(folder.process_lease(name)).unwrap().set_modified(renewed).unwrap();
            File::create(folder.signal(name)).unwrap().set_modified(old).unwrap();
        }
        File::create(folder.signal(signals::LIST)).unwrap().set_modified(old).unwrap();
        remove_unused(&folder, &[]);
        assert_eq!(names(&folder.process_leases()), ["living"]);
        remove_unused(&folder, &[]);
        assert_eq!(names(&folder.signals()), [signals::LIST, "living"]);
    }

    #[test]
    fn a_write_checks_few_entries_unless_many_are_dead() {
        let (_dir, folder) = Folder::temporary();
        let list = list::replace(&folder, (0..1000).map(entry).collect()).unwrap();
        let mut checks = 0;
        let found = some_dead(&list, |_| {
            checks += 1;
            Ok(false)
        });
        assert_eq!((found.len(), checks), (0, SAMPLE));
        assert_eq!(some_dead(&list, |_| Ok(true)).len(), 1000);
        let none = list::replace(&folder, Vec::new()).unwrap();
        assert!(some_dead(&none, |_| Ok(true)).is_empty());
    }
}
