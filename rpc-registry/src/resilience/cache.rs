//! [`Cache`]: the last lists of a registry, kept in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;

use super::cache_file::{self, List};
use crate::Instance;
use crate::clock::unix_ms;
use crate::sync::Mutex;

/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(500);
/// A list that does not change is written again after this time, so that its age stays accurate.
const REFRESH_MS: u64 = 60_000;

/// The lists of one registry, as one application knows them. The processes of the application share
/// the file: each replaces it as a whole and keeps the lists of services that it does not follow.
#[derive(Clone)]
pub(super) struct Cache(Arc<Inner>);

struct Inner {
    path: PathBuf,
    runtime: Handle,
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    lists: BTreeMap<String, List>,
    /// Whether a write is scheduled.
    scheduled: bool,
    /// Whether the last write failed, which was logged.
    failing: bool,
}

impl Cache {
    /// Reads the file if there is one. A damaged file, or one that another user may have written,
    /// is ignored.
    pub(super) async fn open(path: PathBuf, runtime: Handle) -> Self {
        let from = path.clone();
        let read = runtime.spawn_blocking(move || cache_file::read(&from)).await;
        let lists = match read {
            Ok(Ok(lists)) => lists,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "the registry's cache can't be read");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        let state = Mutex::new(CacheState { lists, ..CacheState::default() });
        Self(Arc::new(Inner { path, runtime, state }))
    }

    pub(super) fn get(&self, service: &str) -> Option<(Vec<Instance>, SystemTime)> {
        let state = self.0.state.lock();
        let list = state.lists.get(service)?;
        let as_of = UNIX_EPOCH.checked_add(Duration::from_millis(list.as_of_ms))?;
        Some((list.instances.clone(), as_of))
    }

    /// Notes the current list of the registry. It is written soon, in the background.
    pub(super) fn note(&self, service: &str, instances: &[Instance]) {
        let now = unix_ms();
        let mut state = self.0.state.lock();
        let known = state.lists.get(service);
        let is_new = known.is_none_or(|known| {
            let age = now.checked_sub(known.as_of_ms);
            known.instances != instances || age.is_none_or(|age| age > REFRESH_MS)
        });
        if !is_new || (known.is_none() && instances.is_empty()) {
            return;
        }
        let list = List { as_of_ms: now, instances: instances.to_vec() };
        state.lists.insert(service.to_owned(), list);
        if !std::mem::replace(&mut state.scheduled, true) {
            let inner = Arc::clone(&self.0);
            self.0.runtime.spawn(async move {
                tokio::time::sleep(GATHER).await;
                let _ = tokio::task::spawn_blocking(move || inner.write()).await;
            });
        }
    }
}

impl Inner {
    fn write(&self) {
        let lists = {
            let mut state = self.state.lock();
            state.scheduled = false;
            state.lists.clone()
        };
        let written = cache_file::write(&self.path, lists);
        let was_failing =
            std::mem::replace(&mut self.state.lock().failing, written.as_ref().is_err());
        if let Err(error) = written
            && !was_failing
        {
            tracing::warn!(path = %self.path.display(), %error, "the registry's cache can't be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::cache_file::write;
    use super::*;

    fn instance(id: &str) -> Instance {
        Instance::new("svc", "tcp://127.0.0.1:1").with_id(id)
    }

    async fn open(path: PathBuf) -> Cache {
        Cache::open(path, Handle::current()).await
    }

    async fn cache(folder: &tempfile::TempDir) -> Cache {
        open(folder.path().join("sub/app.json")).await
    }

    async fn written() {
        tokio::time::sleep(GATHER * 3).await;
    }

    #[tokio::test]
    async fn what_was_noted_is_known_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let first = cache(&folder).await;
        first.note("svc", &[instance("a")]);
        written().await;
        let (instances, as_of) = cache(&folder).await.get("svc").unwrap();
        assert_eq!(instances[0].id(), "a");
        assert!(as_of.elapsed().unwrap() < Duration::from_secs(60));
        assert!(cache(&folder).await.get("other").is_none());
    }

    #[tokio::test]
    async fn processes_that_share_the_file_keep_what_the_others_know() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (cache(&folder).await, cache(&folder).await);
        one.note("one", &[instance("a")]);
        written().await;
        two.note("two", &[instance("b")]);
        written().await;
        let both = cache(&folder).await;
        assert!(both.get("one").is_some() && both.get("two").is_some());
    }

    #[tokio::test]
    async fn a_damaged_file_is_as_good_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        for damage in [&b"{"[..], b"", br#"{"format":2,"services":{}}"#, b"\xff\xfe"] {
            fs::write(&path, damage).unwrap();
            let cache = open(path.clone()).await;
            assert!(cache.get("svc").is_none());
            cache.note("svc", &[instance("a")]);
            written().await;
            assert!(open(path.clone()).await.get("svc").is_some());
        }
    }

    #[tokio::test]
    async fn what_an_editor_made_of_the_file_is_left_out_where_it_is_no_instance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        let instance = |id: &str, service: &str| {
            format!(r#"{{"service":"{service}","id":"{id}","uri":"tcp://127.0.0.1:1"}}"#)
        };
        let bad = r#"{"service":"svc","id":"c","uri":""}"#;
        let list = [instance("b", "svc"), instance("a", "svc"), instance("d", "other")].join(",");
        let lists = format!(r#"{{"svc":{{"as_of_ms":1,"instances":[{list},{bad}]}}}}"#);
        fs::write(&path, format!(r#"{{"format":1,"services":{lists}}}"#)).unwrap();
        let (instances, _) = open(path).await.get("svc").unwrap();
        assert_eq!(instances.iter().map(Instance::id).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nobody_but_the_user_can_read_it_whoever_made_the_folder() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        open(path.clone()).await.note("svc", &[instance("a")]);
        written().await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[cfg(unix)]
    async fn believes(path: &Path) -> bool {
        let opened = tokio::time::timeout(Duration::from_secs(10), open(path.to_owned())).await;
        opened.expect("it hangs").get("svc").is_some()
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_somebody_else_may_have_written_is_not_believed() {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open(path.clone()).await.note("svc", &[instance("a")]);
        written().await;
        assert!(believes(&path).await);
        mode(&path, 0o620);
        assert!(!believes(&path).await, "a group may write it");
        mode(&path, 0o600);
        for open_to_all in [0o777, 0o770] {
            mode(folder.path(), open_to_all);
            assert!(!believes(&path).await, "others may exchange it");
        }
        mode(folder.path(), 0o1777);
        assert!(believes(&path).await, "in a sticky folder they may not");
        let other = folder.path().join("other.json");
        fs::hard_link(&path, &other).unwrap();
        assert!(!believes(&path).await, "it is another file, too");
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert!(!believes(&path).await, "it is a link");
        if nix::unistd::geteuid().is_root() {
            chown(&other, Some(65_534), None).unwrap();
            assert!(!believes(&other).await, "it is another user's");
        } else {
            println!("left out, since this is not root: a file of another user");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn no_folder_is_made_where_a_link_of_another_user_leads() {
        use std::os::unix::fs::{lchown, symlink};
        if !nix::unistd::geteuid().is_root() {
            println!("left out, since this is not root: a link of another user");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (own, link) = (folder.path().join("own"), folder.path().join("link"));
        fs::create_dir(&own).unwrap();
        symlink(&own, &link).unwrap();
        lchown(&link, Some(65_534), None).unwrap();
        let cache = open(link.join("rpc-registry/app.json")).await;
        cache.note("svc", &[instance("a")]);
        written().await;
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_named_pipe_in_the_place_of_the_file_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(!believes(&path).await);
    }

    #[tokio::test]
    async fn a_list_of_the_future_is_replaced_after_the_clock_was_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.json");
        let list = |id| List { as_of_ms: unix_ms() + 3_600_000, instances: vec![instance(id)] };
        write(&path, [("svc".to_owned(), list("old")), ("same".to_owned(), list("a"))].into())
            .unwrap();
        let cache = open(path.clone()).await;
        cache.note("svc", &[instance("new")]);
        cache.note("same", &cache.get("same").unwrap().0);
        written().await;
        let next = open(path).await;
        assert_eq!(next.get("svc").unwrap().0[0].id(), "new");
        assert!(next.get("same").unwrap().1 <= SystemTime::now());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_costs_nothing_but_the_cache() {
        let cache = open("/proc/nowhere/app.json".into()).await;
        cache.note("svc", &[instance("a")]);
        written().await;
        assert!(cache.get("svc").is_some(), "this process still knows");
        assert!(cache.0.state.lock().failing);
    }
}
