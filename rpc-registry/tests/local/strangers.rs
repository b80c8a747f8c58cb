//! What other users of the machine can do to a folder, and what they cannot.
//!
//! Where another user is needed, the test has to run as root, and says so if it does not.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may fail"
)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rpc_registry::{Instance, RegistryError, connect};
use tempfile::TempDir;
use tokio::time::timeout;

const STRANGER: u32 = 65_534;
const ROLE: &str = "RPC_REGISTRY_TEST_ROLE";
const URI: &str = "RPC_REGISTRY_TEST_URI";

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:9000").with_id(id)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Like the folder for temporary files: everyone may make files there.
fn open_to_all() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o1777);
    dir
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("left out, since this is not root: what takes other users");
    }
    is_root
}

/// Whether another user can do this.
fn stranger(script: &str) -> bool {
    Command::new("sh").args(["-c", script]).uid(STRANGER).gid(STRANGER).status().unwrap().success()
}

async fn refused(uri: &str) -> RegistryError {
    let connected = timeout(Duration::from_secs(10), connect(uri)).await.expect("it hangs");
    let error = connected.err().unwrap_or_else(|| panic!("{uri} was accepted"));
    assert!(error.is_permission_denied(), "{error:?}");
    error
}

/// All below it with their modes, which are to be closed to all others.
fn assert_closed(path: &Path) {
    assert_eq!(mode(path) & 0o077, 0, "{} has the mode {:o}", path.display(), mode(path));
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|file| assert_closed(&file.unwrap().path()));
    }
}

#[tokio::test]
async fn what_a_registry_makes_is_closed_to_all_others_whatever_the_umask() {
    let dir = open_to_all();
    let path = dir.path().join("some/registry");
    let registry = connect(uri(&path)).await.unwrap();
    let _lease = registry.register(instance("a")).await.unwrap();
    assert_closed(&dir.path().join("some"));
}

#[tokio::test]
async fn a_folder_that_others_may_write_is_refused_and_so_is_one_that_they_may_exchange() {
    let dir = open_to_all();
    let path = dir.path().join("registry");
    fs::create_dir(&path).unwrap();
    for open in [0o777, 0o1777, 0o770, 0o702] {
        set_mode(&path, open);
        let error = refused(&uri(&path)).await;
        for part in [&format!("mode {open:04o}"), path.to_str().unwrap(), "chmod 700"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(mode(&path), open, "it was changed");
    }
    set_mode(&path, 0o755);
    set_mode(dir.path(), 0o777);
    let error = refused(&uri(&path)).await;
    assert!(error.to_string().contains("may exchange it"), "{error}");
    set_mode(dir.path(), 0o755);
    connect(uri(&path)).await.unwrap();
}

#[tokio::test]
async fn a_lock_file_that_is_another_file_is_neither_followed_nor_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry");
    fs::create_dir(&path).unwrap();
    let (precious, lock) = (dir.path().join("precious"), path.join("registry.lock"));
    fs::write(&precious, "precious").unwrap();

    symlink(&precious, &lock).unwrap();
    let error = refused(&uri(&path)).await;
    assert!(error.to_string().contains("symbolic link"), "{error}");
    fs::remove_file(&lock).unwrap();

    fs::hard_link(&precious, &lock).unwrap();
    let error = refused(&uri(&path)).await;
    assert!(error.to_string().contains("2 names"), "{error}");
    fs::remove_file(&lock).unwrap();

    assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    let error = refused(&uri(&path)).await;
    assert!(error.to_string().contains("not a regular file"), "{error}");
    fs::remove_file(&lock).unwrap();

    // Put there after the connection was made.
    let registry = connect(uri(&path)).await.unwrap();
    symlink(&precious, &lock).unwrap();
    let error = registry.register(instance("a")).await.unwrap_err();
    assert!(error.is_permission_denied(), "{error:?}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[tokio::test]
async fn named_pipes_and_links_in_the_folder_hold_nobody_up_and_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (dir.path().join("registry"), dir.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let registry = connect(uri(&path)).await.unwrap();
    let lease = registry.register(instance("a")).await.unwrap();
    let only = |folder: &str| {
        let mut files = fs::read_dir(path.join(folder)).unwrap();
        files.next().unwrap().unwrap().path()
    };
    for file in [only("leases"), only("beats"), path.join("signs/list")] {
        fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    }
    let within = Duration::from_secs(10);
    let looked = timeout(within, registry.lookup("svc")).await.expect("a lookup hangs");
    assert!(looked.unwrap_err().to_string().contains("not a regular file"));
    drop(timeout(within, registry.register(instance("b"))).await.expect("a registration hangs"));
    timeout(within, lease.revoke()).await.expect("leaving hangs").ok();
    drop(registry);

    fs::remove_dir_all(path.join("leases")).unwrap();
    symlink(&elsewhere, path.join("leases")).unwrap();
    let error = refused(&uri(&path)).await;
    assert!(error.to_string().contains("leases: it is a symbolic link"), "{error}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// As the release before made it, with the umask 022.
fn folder_of_the_release_before(path: &Path) -> Vec<PathBuf> {
    for folder in ["leases", "beats", "signs"] {
        fs::create_dir_all(path.join(folder)).unwrap();
        set_mode(&path.join(folder), 0o755);
    }
    set_mode(path, 0o755);
    let line = r#"{"service":"svc","id":"old","uri":"tcp://h:1","lease":"old-1","beat":null}"#;
    let line = line.replace(",\"beat\":null", "");
    let list = format!("{{\"rpc_registry\":1}}\n{line}\n");
    let texts =
        [("registry.jsonl", list.as_str()), ("registry.lock", "7\n"), ("leases/old-1.lock", "7\n")];
    let write = |(name, text)| {
        let file = path.join(name);
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o644);
        file
    };
    texts.map(write).to_vec()
}

#[tokio::test]
async fn a_folder_of_the_release_before_is_read_and_closed_to_others() {
    let dir = open_to_all();
    let path = dir.path().join("registry");
    let files = folder_of_the_release_before(&path);
    let registry = connect(uri(&path)).await.unwrap();
    // Its provider lives.
    let lease = fs::File::open(path.join("leases/old-1.lock")).unwrap();
    lease.lock().unwrap();
    assert_eq!(registry.lookup("svc").await.unwrap()[0].id(), "old");
    for closed in ["", "leases", "beats", "signs", "registry.lock"] {
        assert_eq!(mode(&path.join(closed)) & 0o077, 0, "{closed:?} is open");
    }
    if is_root() {
        for file in files {
            assert!(!stranger(&format!("exec 9<{}", file.display())), "{}", file.display());
        }
    }
}

#[tokio::test]
async fn a_folder_that_holds_other_things_too_stays_open_and_the_registry_in_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("index.html"), "for all").unwrap();
    set_mode(dir.path(), 0o755);
    let registry = connect(uri(dir.path())).await.unwrap();
    let _lease = registry.register(instance("a")).await.unwrap();
    assert_eq!(mode(dir.path()), 0o755);
    for closed in ["leases", "beats", "signs", "turns", "registry.lock", "registry.jsonl"] {
        assert_closed(&dir.path().join(closed));
    }
}

#[tokio::test]
async fn a_folder_that_a_stranger_made_first_is_refused_and_his_links_are_not_followed() {
    if !is_root() {
        return;
    }
    let dir = open_to_all();
    let (path, precious) = (dir.path().join("registry"), dir.path().join("precious"));
    fs::write(&precious, "precious").unwrap();
    let (at, target) = (path.display(), precious.display());
    for open in ["0777", "0755"] {
        assert!(stranger(&format!("mkdir -m {open} {at} && ln -s {target} {at}/registry.lock")));
        let error = refused(&uri(&path)).await;
        assert!(error.to_string().contains("belongs to the user 65534"), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }
    // Above it, and on the way to it.
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    assert!(stranger(&format!("mkdir -m 0755 {at}; ln -s {} {at}/link", own.display())));
    for way in [path.join("below"), path.join("link")] {
        refused(&uri(&way)).await;
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[tokio::test]
async fn a_link_of_a_stranger_that_an_own_link_leads_to_is_not_followed() {
    if !is_root() {
        return;
    }
    let dir = open_to_all();
    let (own, way, strange) =
        (dir.path().join("own"), dir.path().join("way"), dir.path().join("strange"));
    fs::create_dir(&own).unwrap();
    symlink(&own, &way).unwrap();
    connect(uri(&way)).await.unwrap();
    fs::remove_file(&way).unwrap();
    assert!(stranger(&format!("ln -s {} {}", own.display(), strange.display())));
    symlink(&strange, &way).unwrap();
    for path in [way.clone(), way.join("below")] {
        let error = refused(&uri(&path)).await;
        assert!(error.to_string().contains("is a link of the user 65534"), "{error}");
    }
    // A circle ends in an error.
    fs::remove_file(&way).unwrap();
    symlink(&way, &way).unwrap();
    connect(uri(&way.join("below"))).await.err().unwrap();
}

#[tokio::test]
async fn a_list_of_a_stranger_that_takes_the_place_of_a_removed_one_is_not_believed() {
    if !is_root() {
        return;
    }
    let dir = open_to_all();
    let path = dir.path().join("registry");
    let registry = connect(uri(&path)).await.unwrap();
    let mut watch = registry.watch("svc").await.unwrap();
    assert!(watch.changed().await.unwrap().is_empty());
    fs::remove_dir_all(&path).unwrap();
    folder_of_the_release_before(&path);
    for file in ["registry.jsonl", "registry.lock", "leases/old-1.lock", "leases", ""] {
        chown(path.join(file), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let lease = fs::File::open(path.join("leases/old-1.lock")).unwrap();
    lease.lock().unwrap();
    let error = registry.lookup("svc").await.unwrap_err();
    assert!(error.is_permission_denied(), "{error:?}");
    let error = registry.register(instance("a")).await.unwrap_err();
    assert!(error.is_permission_denied(), "{error:?}");
}

#[tokio::test]
async fn shared_is_group_or_nothing() {
    let error = connect("file:///tmp/x?shared=all").await.err().unwrap();
    assert!(error.is_invalid_uri() && error.to_string().contains("shared=group"), "{error}");
}

/// Not a test of its own: what members of a group run.
#[tokio::test]
async fn child() {
    let (Ok(role), Ok(uri)) = (std::env::var(ROLE), std::env::var(URI)) else { return };
    // Ends with the parent, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let outcome = async {
        let registry = connect(uri).await?;
        let lease = registry.register(instance(&role)).await?;
        let found = registry.lookup("svc").await?;
        let ids = found.iter().map(|found| found.id().to_owned()).collect::<Vec<_>>().join(",");
        Ok::<_, RegistryError>((registry, lease, ids))
    };
    match outcome.await {
        Ok((_registry, _lease, ids)) => {
            println!("@{ids}");
            std::future::pending::<()>().await;
        }
        Err(error) => println!("@{error}"),
    }
}

/// What a process of this user has found or was told, and the process.
fn member(id: &str, user: u32, group: u32, uri: &str) -> (String, Child) {
    run(Command::new(std::env::current_exe().unwrap()).uid(user).gid(group), id, uri)
}

fn run(command: &mut Command, id: &str, uri: &str) -> (String, Child) {
    let command =
        command.args(["strangers::child", "--exact", "--nocapture"]).env(ROLE, id).env(URI, uri);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.filter_map(|line| Some(line.split_once('@')?.1.to_owned())).next();
    (line.expect("the child ended before it was ready"), child)
}

#[test]
fn a_short_name_leads_to_a_folder_of_this_user_alone() {
    let (runtime, temporary) = (tempfile::tempdir().unwrap(), open_to_all());
    let connect = |runtime: &Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("XDG_RUNTIME_DIR", runtime).env("TMPDIR", temporary.path());
        let (told, mut child) = run(&mut command, "a", "file:demo");
        child.kill().unwrap();
        child.wait().unwrap();
        told
    };
    assert_eq!(connect(runtime.path()), "a");
    assert!(runtime.path().join("rpc/demo/registry.jsonl").exists());
    assert_closed(&runtime.path().join("rpc"));

    let missing = runtime.path().join("missing");
    assert_eq!(connect(&missing), "a");
    let own = temporary.path().join(format!("rpc-{}", nix::unistd::geteuid()));
    assert!(own.join("demo/registry.jsonl").exists());
    assert_closed(&own);
    if is_root() {
        fs::remove_dir_all(&own).unwrap();
        assert!(stranger(&format!("mkdir -m 0755 {}", own.display())));
        let told = connect(&missing);
        assert!(told.contains("may exchange it"), "{told}");
        // As `sudo -E` leaves it: not this user's.
        fs::remove_dir(&own).unwrap();
        chown(runtime.path(), Some(STRANGER), None).unwrap();
        assert_eq!(connect(runtime.path()), "a");
        assert_closed(&own);
    }
}

#[tokio::test]
async fn who_shares_a_folder_cannot_lead_others_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, private) = (dir.path().join("registry"), dir.path().join("private"));
    fs::create_dir(&path).unwrap();
    set_mode(&path, 0o2770);
    fs::create_dir(&private).unwrap();
    let names = ["Cargo.lock", "other.lock", "2024-11-28", "notes", "list"];
    for name in names {
        let file = fs::File::create(private.join(name)).unwrap();
        file.set_modified(UNIX_EPOCH).unwrap();
        set_mode(&private.join(name), 0o644);
    }
    let registry = connect(format!("{}?shared=group", uri(&path))).await.unwrap();
    // What any member can do while another one is connected.
    for folder in ["leases", "beats", "signs", "turns"] {
        let _ = fs::remove_dir_all(path.join(folder));
        symlink(&private, path.join(folder)).unwrap();
    }
    let line = r#"{"service":"svc","id":"x","uri":"tcp://h:1","lease":"Cargo"}"#;
    fs::write(path.join("registry.jsonl"), format!("{{\"rpc_registry\":1}}\n{line}\n")).unwrap();
    for what in ["a removal", "a lookup", "a registration"] {
        let refused = match what {
            "a lookup" => registry.lookup("svc").await.err(),
            "a removal" => registry.unregister("svc", "x").await.err(),
            _ => registry.register(instance("a")).await.err(),
        };
        let error = refused.unwrap_or_else(|| panic!("{what} was not refused"));
        assert!(error.is_permission_denied(), "{what}: {error:?}");
        let mut left: Vec<_> = fs::read_dir(&private).unwrap().map(Result::unwrap).collect();
        left.sort_by_key(fs::DirEntry::file_name);
        let mut expected = names;
        expected.sort_unstable();
        assert_eq!(
            left.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(),
            expected,
            "{what}"
        );
        for file in left {
            assert_eq!(mode(&file.path()), 0o644, "{what}");
            assert_eq!(file.metadata().unwrap().modified().unwrap(), UNIX_EPOCH, "{what}");
        }
    }
}

#[test]
fn users_of_one_group_share_a_folder_and_others_do_not() {
    const GROUP: u32 = 64_001;
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    if !stranger(&format!("test -x {}", std::env::current_exe().unwrap().display())) {
        println!("left out, since other users may not run this program");
        return;
    }
    for folder_mode in [0o2770, 0o770] {
        let path = dir.path().join(format!("{folder_mode:o}"));
        fs::create_dir(&path).unwrap();
        chown(&path, None, Some(GROUP)).unwrap();
        set_mode(&path, folder_mode);
        let shared = format!("{}?shared=group", uri(&path));
        let (found, mut one) = member("one", 64_010, GROUP, &shared);
        assert_eq!(found, "one");
        let (found, mut two) = member("two", 64_020, GROUP, &shared);
        assert_eq!(found, "one,two");
        let (told, mut other) = member("other", 64_030, 64_030, &shared);
        assert!(told.contains("annot"), "{told}");
        // Who does not say that it is shared is not to trust the group.
        let (told, mut careful) = member("careful", 64_010, GROUP, &uri(&path));
        assert!(told.contains("shared=group"), "{told}");
        for child in [&mut one, &mut two, &mut other, &mut careful] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    // One that a member has made where every user may make folders.
    let all = open_to_all();
    let path = all.path().join("registry");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(64_010), Some(GROUP)).unwrap();
    set_mode(&path, 0o2770);
    let shared = format!("{}?shared=group", uri(&path));
    let (told, mut child) = member("two", 64_020, GROUP, &shared);
    assert!(told.contains("every user may make folders"), "{told}");
    child.wait().unwrap();
}
