//! Removing what processes have left that did not end in order.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::folder::Folder;
use super::format::Entry;
use super::lease::{is_free, is_plain};
use super::list::List;
use super::signs;
use super::site::lock;
use super::store::Store;
use crate::RegistryError;
use crate::instance::random_bits;

/// How many lines a write looks at. It goes on as long as half of them are dead. So a write costs
/// about as much in a long list as in a short one, and what a large process leaves is soon gone.
const SAMPLE: usize = 32;
/// How often a process looks for files that nobody names.
const FILES_EVERY: Duration = Duration::from_secs(60);
/// A beat that is not renewed for so long is nobody's: longer than the longest lease time.
const ABANDONED: Duration = Duration::from_secs(1200);

/// Some of the dead lines.
pub(super) fn some_dead(
    list: &List,
    mut is_dead: impl FnMut(&Entry) -> Result<bool, RegistryError>,
) -> Vec<Arc<Entry>> {
    let entries = list.readable();
    let start = usize::try_from(random_bits()).unwrap_or_default() % entries.len().max(1);
    let (later, first) = entries.split_at(start);
    let around: Vec<_> = first.iter().chain(later).collect();
    let mut dead = Vec::new();
    for sample in around.chunks(SAMPLE) {
        let before = dead.len();
        // One that can't be looked at stays.
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

/// Removes the files that `list` does not name and that nobody holds. The caller holds the exclusive
/// registry lock. Leftovers do no harm, so failures only end it.
pub(super) fn files_from_time_to_time(store: &Store, list: &List) {
    let mut swept = lock(&store.site().swept);
    if swept.is_none_or(|swept| swept.elapsed() >= FILES_EVERY) {
        *swept = Some(Instant::now());
        drop(swept);
        files(store.folder(), list.readable());
    }
}

fn files(folder: &Folder, entries: &[Arc<Entry>]) {
    let leases: HashSet<_> = entries.iter().map(|entry| entry.lease.as_str()).collect();
    each(&folder.leases(), |path, name| {
        let plain = name.strip_suffix(".lock").or_else(|| name.strip_suffix(".removed"));
        if plain.is_some_and(|it| is_plain(it) && !leases.contains(it)) && is_free(folder, path) {
            let _ = folder.remove(path);
        }
    });
    each(&folder.turns(), |path, _| {
        if is_old(path) && is_free(folder, path) {
            let _ = folder.remove(path);
        }
    });
    let beats: HashSet<_> =
        entries.iter().filter_map(|entry| Some(entry.beat.as_ref()?.name.as_str())).collect();
    for place in [folder.beats(), folder.signs()] {
        each(&place, |path, name| {
            let is_its_own = name == signs::LIST || !is_plain(name);
            // A sign is as old as its process; its beat is not.
            let is_abandoned = is_old(path) && is_old(&folder.beat(name));
            if !is_its_own && !beats.contains(name) && is_abandoned {
                let _ = folder.remove(path);
            }
        });
    }
}

fn each(place: &Path, mut look: impl FnMut(&Path, &str)) {
    let Ok(files) = fs::read_dir(place) else { return };
    for path in files.flatten().map(|file| file.path()) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            look(&path, name);
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
    use crate::file::lease::LeaseFile;
    use crate::file::list;

    fn entry(id: usize) -> Arc<Entry> {
        let instance = Instance::new("svc", "tcp://h:1").with_id(id.to_string());
        Arc::new(Entry::new(instance, format!("lease-{id}"), None).unwrap())
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
        files(&folder, &[entry(1)]);
        let held = format!("{}.lock", held.name());
        assert_eq!(names(&folder.leases()), ["README", &held, "lease-1.lock", "not a name.lock"]);
    }

    #[test]
    fn beats_that_are_old_and_not_named_go_with_their_signs() {
        let (_dir, folder) = Folder::temporary();
        let old = SystemTime::now() - 2 * ABANDONED;
        for (name, renewed) in [("old", old), ("living", SystemTime::now())] {
            File::create(folder.beat(name)).unwrap().set_modified(renewed).unwrap();
            File::create(folder.sign(name)).unwrap().set_modified(old).unwrap();
        }
        File::create(folder.sign(signs::LIST)).unwrap().set_modified(old).unwrap();
        files(&folder, &[]);
        assert_eq!(names(&folder.beats()), ["living"]);
        files(&folder, &[]);
        assert_eq!(names(&folder.signs()), [signs::LIST, "living"]);
    }

    #[test]
    fn a_write_looks_at_few_lines_unless_many_are_dead() {
        let (_dir, folder) = Folder::temporary();
        let list = list::replace(&folder, (0..1000).map(entry).collect()).unwrap();
        let mut looks = 0;
        let found = some_dead(&list, |_| {
            looks += 1;
            Ok(false)
        });
        assert_eq!((found.len(), looks), (0, SAMPLE));
        assert_eq!(some_dead(&list, |_| Ok(true)).len(), 1000);
        let none = list::replace(&folder, Vec::new()).unwrap();
        assert!(some_dead(&none, |_| Ok(true)).is_empty());
    }
}
