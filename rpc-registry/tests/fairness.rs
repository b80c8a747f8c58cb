//! Many processes that want to write, on a machine that has other work: each gets its turn.
//!
//! The processes are this test program itself, told by the environment to run [`child`] in a role.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rpc_registry::{Instance, Registry, connect};

const ROLE: &str = "RPC_REGISTRY_TEST_ROLE";
const FOLDER: &str = "RPC_REGISTRY_TEST_FOLDER";
/// For how many seconds they write, if not for [`SECONDS`].
const LONGER: &str = "RPC_REGISTRY_TEST_SECONDS";
const SECONDS: u64 = 5;

const WRITERS: usize = 50;
const BUSY: usize = 2;

fn seconds() -> Duration {
    Duration::from_secs(std::env::var(LONGER).map_or(SECONDS, |given| given.parse().unwrap()))
}

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    let (Ok(role), Ok(folder)) = (std::env::var(ROLE), std::env::var(FOLDER)) else { return };
    // Ends with the parent, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let folder = Path::new(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match role.as_str() {
        "writer" => runtime.block_on(write_again_and_again(folder)),
        "queue" => runtime.block_on(async {
            let _lease = registry(folder).await.register(instance()).await.unwrap();
        }),
        "busy" => loop {
            std::hint::spin_loop();
        },
        other => panic!("no role {other}"),
    }
}

/// Leaves a line for each write: when it was begun and when it was done.
async fn write_again_and_again(folder: &Path) {
    let registry = registry(folder).await;
    let mut log = String::new();
    let mut done = |begun: u128| log.push_str(&format!("{begun} {}\n", now()));
    let begin = Instant::now();
    while begin.elapsed() < seconds() {
        let begun = now();
        let lease = registry.register(instance()).await.unwrap();
        done(begun);
        let begun = now();
        lease.revoke().await.unwrap();
        done(begun);
    }
    fs::write(folder.join(format!("log-{}", std::process::id())), log).unwrap();
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

fn instance() -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:9000")
}

async fn registry(folder: &Path) -> Arc<dyn Registry> {
    // Generous, so that a slow disk does not fail a test of the order.
    let folder = folder.join("registry");
    connect(format!("file://{}?lock_timeout=60000ms", folder.display())).await.unwrap()
}

/// A child process, killed when dropped.
struct Process {
    child: Child,
    /// Its end would be told by this.
    _stdin: ChildStdin,
}

impl Process {
    fn start(role: &str, folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture"]).env(ROLE, role).env(FOLDER, folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let _stdin = child.stdin.take().unwrap();
        Self { child, _stdin }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn fifty_writers_on_a_busy_machine_wait_for_about_fifty_turns_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let busy: Vec<_> = (0..BUSY).map(|_| Process::start("busy", dir.path())).collect();
    let mut writers: Vec<_> = (0..WRITERS).map(|_| Process::start("writer", dir.path())).collect();
    for writer in &mut writers {
        assert!(writer.child.wait().unwrap().success(), "one has waited in vain");
    }
    drop(busy);

    let mut writes = Vec::new();
    let mut each = Vec::new();
    for file in fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
        if file.is_dir() {
            continue;
        }
        let before = writes.len();
        for line in fs::read_to_string(&file).unwrap().lines() {
            let (begun, done) = line.split_once(' ').unwrap();
            writes.push((begun.parse::<u128>().unwrap(), done.parse::<u128>().unwrap()));
        }
        each.push(writes.len() - before);
    }
    each.sort_unstable();
    let mut ends: Vec<_> = writes.iter().map(|(_, done)| *done).collect();
    ends.sort_unstable();
    let place = |time: u128| ends.partition_point(|end| *end < time);
    let mut turns: Vec<_> =
        writes.iter().map(|(begun, done)| place(*done) - place(*begun)).collect();
    turns.sort_unstable();
    let (median, most) = (turns[turns.len() / 2], turns[turns.len() - 1]);
    println!(
        "{} writes in {:?}, {} to {} of one process; waited for {median} turns, for {most} at most",
        writes.len(),
        seconds(),
        each[0],
        each[each.len() - 1],
    );
    assert_eq!(each.len(), WRITERS);
    // Where one is begun and has no ticket yet, others may take theirs.
    assert!(most <= 2 * WRITERS, "one has waited for {most} turns");
}

#[tokio::test]
async fn who_is_stopped_in_the_queue_holds_the_others_up_for_a_moment_only() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path()).await;
    drop(registry.register(instance()).await.unwrap());
    let lock = fs::File::open(dir.path().join("registry/registry.lock")).unwrap();
    lock.lock().unwrap();
    let stopped: Vec<_> = (0..3).map(|_| Process::start("queue", dir.path())).collect();
    let waiting = || fs::read_dir(dir.path().join("registry/turns")).unwrap().count();
    let begun = Instant::now();
    while waiting() < stopped.len() {
        assert!(begun.elapsed() < Duration::from_secs(20), "they do not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stopped.iter().for_each(|process| process.signal("-STOP"));
    lock.unlock().unwrap();
    let begun = Instant::now();
    let lease = registry.register(instance()).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "held up for {took:?}");
    lease.revoke().await.unwrap();
    for mut process in stopped {
        process.signal("-CONT");
        assert!(process.child.wait().unwrap().success(), "it does not go on");
    }
}
