//! The file back end in one process: what it keeps, what it refuses, what it repairs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{Instance, LeaseState, Registry, RegistryError, connect};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

struct Fixture {
    dir: TempDir,
    registry: Arc<dyn Registry>,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = connect(uri(dir.path())).await.unwrap();
        Self { dir, registry }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn list(&self) -> String {
        fs::read_to_string(self.path("registry.jsonl")).unwrap()
    }

    /// Replaces the list as a whole, as its header asks for.
    fn write_list(&self, text: impl AsRef<[u8]>) {
        fs::write(self.path("edited"), text).unwrap();
        fs::rename(self.path("edited"), self.path("registry.jsonl")).unwrap();
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(folder))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn ids(&self) -> Vec<String> {
        let found = self.registry.lookup("svc").await.unwrap();
        found.iter().map(|instance| instance.id().to_owned()).collect()
    }
}

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:9000").with_id(id)
}

async fn refused(uri: &str) -> RegistryError {
    connect(uri).await.err().unwrap_or_else(|| panic!("{uri} was accepted"))
}

#[tokio::test]
async fn what_is_registered_is_found_by_others_until_the_lease_ends() {
    let a = Fixture::new().await;
    let other = connect(uri(a.dir.path())).await.unwrap();
    let full = instance("one")
        .with_version("1.2.0")
        .with_group("g")
        .with_zone("z")
        .with_weight(0)
        .with_metadata("k", "v\n\"\u{1f600}");
    let one = a.registry.register(full.clone()).await.unwrap();
    let two = other.register(instance("two")).await.unwrap();
    assert_eq!(other.lookup("svc").await.unwrap()[0], full);
    assert_eq!(a.ids().await, ["one", "two"]);
    assert_eq!(a.registry.services().await.unwrap(), ["svc"]);
    drop(one);
    assert_eq!(a.ids().await, ["two"]);
    two.revoke().await.unwrap();
    assert!(a.ids().await.is_empty());
    assert!(a.registry.services().await.unwrap().is_empty());
    assert_eq!((a.list().lines().count(), a.files("leases").len()), (1, 0));
}

#[tokio::test]
async fn the_file_is_readable_and_editable_by_a_person() {
    let f = Fixture::new().await;
    let _lease = f.registry.register(instance("a")).await.unwrap();
    let list = f.list();
    assert!(list.starts_with(r#"{"rpc_registry":1,"hint":"#), "{list}");
    let line = list.lines().nth(1).unwrap();
    assert!(
        line.starts_with(r#"{"service":"svc","id":"a","uri":"tcp://127.0.0.1:9000","#),
        "{line}"
    );
    f.write_list(list.replace("\"weight\":100", "\"weight\": 7, \"why\": \"slow disk\""));
    assert_eq!(f.registry.lookup("svc").await.unwrap()[0].weight(), 7);
    let _other = f.registry.register(instance("b")).await.unwrap();
    assert!(f.list().contains("\"why\": \"slow disk\""), "the note was dropped");
}

#[tokio::test]
async fn an_id_in_use_is_refused_and_a_dead_one_replaced_by_a_newer_epoch() {
    let f = Fixture::new().await;
    let lease = f.registry.register(instance("a")).await.unwrap();
    let error = f.registry.register(instance("a")).await.unwrap_err();
    assert!(error.is_already_exists(), "{error}");
    // As if the provider had been killed: its line is there, its lease is free.
    let line = f.list().replace("\"epoch\":0", "\"epoch\":5");
    lease.revoke().await.unwrap();
    f.write_list(line);
    assert!(f.ids().await.is_empty());
    let lease = f.registry.register(instance("a")).await.unwrap();
    assert_eq!(lease.instance().epoch(), 6);
    assert_eq!(f.registry.lookup("svc").await.unwrap()[0], *lease.instance());
    assert_eq!(f.list().lines().count(), 2);
}

#[tokio::test]
async fn a_stale_lease_does_not_remove_its_successor() {
    let f = Fixture::new().await;
    let stale = f.registry.register(instance("a")).await.unwrap();
    assert!(f.registry.unregister("svc", "a").await.unwrap());
    assert!(!f.registry.unregister("svc", "a").await.unwrap());
    let _lease = f.registry.register(instance("a")).await.unwrap();
    stale.revoke().await.unwrap();
    assert_eq!(f.ids().await, ["a"]);
}

#[tokio::test]
async fn what_crashes_left_goes_with_the_first_write() {
    let f = Fixture::new().await;
    let dead = r#"{"service":"svc","id":"dead","uri":"tcp://h:1","lease":"dead-1"}"#;
    f.write_list(format!("{{\"rpc_registry\":1}}\n{dead}\n"));
    fs::create_dir(f.path("leases")).unwrap();
    for leftover in ["leases/dead-1.lock", "leases/never-listed.lock", "registry.jsonl.new"] {
        fs::write(f.path(leftover), "half").unwrap();
    }
    assert!(f.ids().await.is_empty());
    let _lease = f.registry.register(instance("b")).await.unwrap();
    assert_eq!(f.files("leases").len(), 1);
    assert_eq!(
        f.files("."),
        ["beats", "leases", "registry.jsonl", "registry.lock", "signs", "turns"]
    );
    assert_eq!(f.list().lines().count(), 2);
}

#[tokio::test]
async fn a_damaged_file_is_explained_then_moved_aside_and_its_good_lines_kept() {
    let f = Fixture::new().await;
    let _a = f.registry.register(instance("a")).await.unwrap();
    let b = f.registry.register(instance("b")).await.unwrap();
    let damaged = f.list().replace("\"id\":\"b\"", "\"id\":b");
    f.write_list(&damaged);

    let error = f.registry.lookup("svc").await.unwrap_err();
    assert!(error.is_corrupt());
    for part in ["registry.jsonl", "line 3", "column", "correct or delete", f.registry.uri()] {
        assert!(error.to_string().contains(part), "{error} does not say {part:?}");
    }
    assert!(f.registry.unregister("svc", "a").await.unwrap_err().is_corrupt());
    assert!(b.revoke().await.unwrap_err().is_corrupt());
    assert_eq!(f.list(), damaged, "only a registration may repair");

    let _c = f.registry.register(instance("c")).await.unwrap();
    assert_eq!(f.ids().await, ["a", "c"]);
    let aside: Vec<_> =
        f.files(".").into_iter().filter(|n| n.starts_with("registry.jsonl.damaged-")).collect();
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read_to_string(f.path(&aside[0])).unwrap(), damaged);
}

#[tokio::test]
async fn a_list_that_is_not_text_is_damage_and_an_empty_one_is_not() {
    let f = Fixture::new().await;
    f.write_list("");
    assert!(f.ids().await.is_empty());
    f.write_list(b"\xff\xff\xff\xff");
    assert!(f.registry.lookup("svc").await.unwrap_err().is_corrupt());
    let _a = f.registry.register(instance("a")).await.unwrap();
    assert_eq!(f.ids().await, ["a"]);
}

#[tokio::test]
async fn another_format_version_is_never_overwritten() {
    let f = Fixture::new().await;
    let newer = "{\"rpc_registry\":2}\nwho knows\n";
    f.write_list(newer);
    for error in [
        f.registry.lookup("svc").await.unwrap_err(),
        f.registry.register(instance("a")).await.unwrap_err(),
        f.registry.unregister("svc", "a").await.unwrap_err(),
    ] {
        assert!(error.is_unsupported_format() && error.to_string().contains("version 2"));
    }
    assert_eq!(f.list(), newer);
    assert_eq!(f.files("."), ["registry.jsonl", "registry.lock", "turns"], "it was touched");
}

#[tokio::test]
async fn a_list_too_large_to_be_one_is_not_read_into_memory() {
    let f = Fixture::new().await;
    File::create(f.path("registry.jsonl")).unwrap().set_len(1 << 40).unwrap();
    let error = f.registry.lookup("svc").await.unwrap_err();
    assert!(error.is_corrupt() && error.to_string().contains("16777216"), "{error}");
    assert!(f.registry.register(instance("a")).await.unwrap_err().is_corrupt());
}

#[tokio::test]
async fn a_list_that_is_no_file_is_an_error_and_not_a_hang() {
    let f = Fixture::new().await;
    let made = std::process::Command::new("mkfifo").arg(f.path("registry.jsonl")).status();
    assert!(made.unwrap().success());
    let lookup = timeout(Duration::from_secs(5), f.registry.lookup("svc")).await.unwrap();
    assert!(lookup.unwrap_err().is_corrupt());
}

#[tokio::test]
async fn folders_that_cannot_be_used_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = refused(&uri(&path)).await;
        assert!(error.is_unavailable(), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains("choose another path"), "{message}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    for path in [
        "file://tmp/x",
        "file:///x?lock_timeout=0s",
        "file:///x?poll_interval=1ms",
        "file:///x?lease=999ms",
    ] {
        assert!(refused(path).await.is_invalid_uri(), "{path}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_may_not_be_made_is_a_permission_error() {
    // Not even root may make a folder there.
    let error = refused("file:///sys/rpc-registry-test").await;
    assert!(error.is_permission_denied(), "{error:?}");
    assert!(error.to_string().contains("let this user write there"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[cfg(unix)]
#[tokio::test]
async fn a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::new().await;
    let _a = f.registry.register(instance("a")).await.unwrap();
    fs::set_permissions(f.dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let root = fs::write(f.path("probe"), "").is_ok(); // permissions don't bind root
    let result = f.registry.register(instance("b")).await;
    let found = f.ids().await;
    fs::set_permissions(f.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if root {
        assert!(result.is_ok());
    } else {
        assert!(result.unwrap_err().is_permission_denied());
        assert_eq!(found, ["a"]);
    }
}

#[tokio::test]
async fn invalid_instances_leave_the_folder_untouched() {
    let f = Fixture::new().await;
    for bad in [instance(""), instance("a b"), Instance::new("s\n", "tcp://h:1")] {
        assert!(f.registry.register(bad).await.unwrap_err().is_invalid_instance());
    }
    assert!(f.registry.lookup("").await.unwrap_err().is_invalid_instance());
    assert!(f.registry.watch("a b").await.unwrap_err().is_invalid_instance());
    assert!(f.files(".").is_empty());
    // Whatever the rules allow as an id must not lead out of the folder of leases.
    let _a = f.registry.register(instance("../../../x/é%2f")).await.unwrap();
    assert_eq!(f.ids().await, ["../../../x/é%2f"]);
    assert_eq!(f.files("leases").len(), 1);
}

#[tokio::test]
async fn a_removed_folder_is_made_again_to_register_but_not_to_leave() {
    let f = Fixture::new().await;
    let (a, b) = (instance("a"), instance("b"));
    let (a, b) = (f.registry.register(a).await.unwrap(), f.registry.register(b).await.unwrap());
    fs::remove_dir_all(f.dir.path()).unwrap();
    assert!(f.ids().await.is_empty());
    a.revoke().await.unwrap();
    drop(b);
    assert!(!f.registry.unregister("svc", "a").await.unwrap());
    assert!(!f.dir.path().exists());
    let _c = f.registry.register(instance("c")).await.unwrap();
    assert_eq!(f.ids().await, ["c"]);
    // With one that is still kept.
    fs::remove_dir_all(f.dir.path()).unwrap();
    let _d = f.registry.register(instance("d")).await.unwrap();
    assert_eq!(f.ids().await, ["d"]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_stays_held_is_a_timeout_that_names_it_and_readers_go_on() {
    let f = Fixture::new().await;
    let _a = f.registry.register(instance("a")).await.unwrap();
    let holder = File::open(f.path("registry.lock")).unwrap();
    holder.lock().unwrap();
    let started = Instant::now();
    let error = f.registry.register(instance("b")).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(error.to_string().contains(f.path("registry.lock").to_str().unwrap()), "{error}");
    let waited = started.elapsed();
    assert!(waited > Duration::from_millis(4900) && waited < Duration::from_millis(5100));
    assert_eq!(f.ids().await, ["a"]);
    holder.unlock().unwrap();
    let _b = f.registry.register(instance("b")).await.unwrap();
}

#[tokio::test]
async fn a_lease_dropped_while_the_lock_is_held_counts_no_more() {
    let f = Fixture::new().await;
    let a = f.registry.register(instance("a")).await.unwrap();
    let holder = File::open(f.path("registry.lock")).unwrap();
    holder.lock().unwrap();
    drop(a);
    assert!(f.ids().await.is_empty());
    assert_eq!(f.list().lines().count(), 2, "the test did not keep the line from being removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_hears_of_each_change_and_of_nothing_else() {
    let f = Fixture::new().await;
    let mut watch = f.registry.watch("svc").await.unwrap();
    assert!(watch.changed().await.unwrap().instances.is_empty());
    let a = f.registry.register(instance("a")).await.unwrap();
    assert_eq!(watch.changed().await.unwrap().instances[0].id(), "a");
    let _other = f.registry.register(Instance::new("other", "tcp://h:1")).await.unwrap();
    assert!(timeout(Duration::from_millis(300), watch.changed()).await.is_err());
    drop(a);
    assert!(watch.changed().await.unwrap().instances.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_heard_of_through_the_operating_system_and_not_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let registry = connect(format!("{}?poll_interval=1m", uri(dir.path()))).await.unwrap();
    let mut watch = registry.watch("svc").await.unwrap();
    watch.changed().await.unwrap();
    for _ in 0..3 {
        let lease = registry.register(instance("a")).await.unwrap();
        let heard = timeout(Duration::from_secs(10), watch.changed()).await;
        assert_eq!(heard.expect("no sign was heard").unwrap().len(), 1);
        lease.revoke().await.unwrap();
        let heard = timeout(Duration::from_secs(10), watch.changed()).await;
        assert!(heard.expect("no sign was heard").unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_says_that_the_file_is_damaged_keeps_the_last_good_list_and_goes_on() {
    let f = Fixture::new().await;
    let _a = f.registry.register(instance("a")).await.unwrap();
    let mut watch = f.registry.watch("svc").await.unwrap();
    assert!(watch.changed().await.unwrap().is_current());
    let good = f.list();
    f.write_list(format!("{good}oops"));
    let kept = watch.changed().await.unwrap();
    assert!(kept.age().is_some() && kept.len() == 1, "{kept:?}");
    f.write_list(good.replace("\"weight\":100", "\"weight\":1"));
    let mended = watch.changed().await.unwrap();
    assert!(mended.is_current() && mended[0].weight() == 1, "{mended:?}");
    f.write_list("oops");
    assert!(f.registry.watch("other").await.unwrap_err().is_corrupt());
}

/// Watches four providers while something is done to the files, until all of them have registered
/// again. Returns the lowest number of them that was told meanwhile.
async fn fewest_seen_after(done: impl FnOnce(&Fixture)) -> usize {
    let f = Fixture::new().await;
    let registry = connect(format!("{}?lease=1s", uri(f.dir.path()))).await.unwrap();
    let mut leases = Vec::new();
    for id in ["a", "b", "c", "d"] {
        leases.push(registry.register(instance(id)).await.unwrap());
    }
    let mut watch = f.registry.watch("svc").await.unwrap();
    let mut fewest = watch.changed().await.unwrap().len();
    done(&f);
    let again = async {
        loop {
            let now = watch.changed().await.unwrap();
            fewest = fewest.min(now.len());
            if now.is_current() && now.len() == 4 && now.iter().all(|it| it.epoch() == 1) {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), again).await.unwrap();
    fewest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_was_deleted_or_overwritten_is_not_believed() {
    // That half of them are gone is believed while the other half is back already.
    let deleted = |f: &Fixture| fs::remove_file(f.path("registry.jsonl")).unwrap();
    assert!(fewest_seen_after(deleted).await >= 2);
    let overwritten = |f: &Fixture| f.write_list("{\"rpc_registry\":1}\n");
    assert!(fewest_seen_after(overwritten).await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_its_folder() {
    // A renewal may create a file in the folder while that is removed.
    let is_busy = |error: io::Error| error.kind() == io::ErrorKind::DirectoryNotEmpty;
    fewest_seen_after(|f| while fs::remove_dir_all(f.dir.path()).is_err_and(is_busy) {}).await;
}

/// What becomes of the registration `a`, whose lease time is 1 s, after something was done to it.
async fn fate_of(f: &Fixture, done: impl FnOnce(&Fixture)) -> LeaseState {
    let registry = connect(format!("{}?lease=1s", uri(f.dir.path()))).await.unwrap();
    let lease = registry.register(instance("a")).await.unwrap();
    let mut states = lease.states();
    done(f);
    assert!(f.ids().await.is_empty());
    let lost = states.changed().await.unwrap();
    assert!(matches!(&lost, LeaseState::Lost { .. }), "{lost:?}");
    while let LeaseState::Lost { .. } = states.now() {
        states.changed().await.unwrap();
    }
    assert_eq!(f.ids().await, ["a"]);
    states.now()
}

#[tokio::test]
async fn a_registration_that_others_cannot_see_any_more_is_made_again() {
    let again = |state| assert!(matches!(state, LeaseState::Held { epoch: 1 }), "{state:?}");
    let f = Fixture::new().await;
    again(fate_of(&f, |f| f.write_list("{\"rpc_registry\":1}\n")).await);
    let f = Fixture::new().await;
    again(fate_of(&f, |f| fs::remove_file(f.path("registry.jsonl")).unwrap()).await);
    let f = Fixture::new().await;
    again(fate_of(&f, |f| fs::remove_dir_all(f.path("leases")).unwrap()).await);
    let f = Fixture::new().await;
    again(fate_of(&f, |f| fs::remove_dir_all(f.dir.path()).unwrap()).await);
}

#[tokio::test]
async fn a_removed_beat_is_made_again() {
    let f = Fixture::new().await;
    let registry = connect(format!("{}?lease=1s", uri(f.dir.path()))).await.unwrap();
    let lease = registry.register(instance("a")).await.unwrap();
    fs::remove_dir_all(f.path("beats")).unwrap();
    assert!(f.ids().await.is_empty());
    let again = async { while f.ids().await.is_empty() {} };
    timeout(Duration::from_secs(20), again).await.expect("the beat does not come back");
    assert!(matches!(lease.states().now(), LeaseState::Held { epoch: 0 }));
}

#[tokio::test]
async fn what_an_administrator_removes_does_not_come_back() {
    let f = Fixture::new().await;
    let registry = connect(format!("{}?lease=1s", uri(f.dir.path()))).await.unwrap();
    let lease = registry.register(instance("a")).await.unwrap();
    let other = registry.register(instance("b")).await.unwrap();
    assert!(f.registry.unregister("svc", "a").await.unwrap());
    assert!(f.list().contains("\"b\""));
    // `b` is found missing, in a renewal that has looked at `a` too.
    fs::remove_file(f.path("registry.jsonl")).unwrap();
    let mut states = other.states();
    states.changed().await.unwrap();
    let again = async { while f.ids().await != ["b"] {} };
    timeout(Duration::from_secs(20), again).await.expect("b does not come back");
    assert!(matches!(lease.states().now(), LeaseState::Held { epoch: 0 }));
    lease.revoke().await.unwrap();
    assert!(f.files("leases").iter().all(|name| name.ends_with(".lock")), "its mark is left");
}

#[tokio::test(start_paused = true)]
async fn the_task_of_a_watch_ends_with_the_last_watch() {
    let f = Fixture::new().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let watch = f.registry.watch("svc").await.unwrap();
    let clone = watch.clone();
    drop(watch);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tasks(), before + 1);
    drop(clone);
    while tasks() > before {
        tokio::task::yield_now().await;
    }
}

#[test]
fn outside_of_a_runtime_there_is_an_error_instead_of_a_panic() {
    use std::task::{Context, Poll, Waker};
    let mut future = Box::pin(connect("file:///tmp/rpc-registry-no-runtime"));
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => assert!(error.to_string().contains("runtime"), "{error}"),
        other => panic!("{}", other.is_ready()),
    }
}
