//! Real servers for tests: each a process of the test, on free ports of this machine, with its data
//! in a temporary folder, and killed with the value that stands for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

pub(crate) mod etcd;
pub(crate) mod zookeeper;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rpc_registry::{Instance, Watch};

/// A running server.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with what it prints added to the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it (`SIGSTOP`): connections stay, and nothing is answered. The signal reaches a busy
    /// machine's threads one by one, so this returns when all of them have stopped.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.id());
        let runs = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // Behind the program's name, which is in parentheses.
            stat.rsplit_once(") ").is_some_and(|(_, stat)| !stat.starts_with('T'))
        };
        while fs::read_dir(&tasks).unwrap().flatten().any(runs) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    /// Fails the test if it has ended by itself.
    pub(crate) fn assert_runs(&mut self) {
        if let Some(ended) = self.has_ended() {
            panic!("the server has ended: {ended}");
        }
    }

    /// The last lines that it printed, the last one first, if it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().unwrap()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(20).collect();
        Some(format!("{status}\n{}", tail.join("\n")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `program` is there. If not, says so and which Debian packages to install; the test has
/// nothing to do then. Where `RPC_REQUIRE_SERVERS` is set, as in CI, it fails.
pub(crate) fn is_installed(program: &str, packages: &str) -> bool {
    let found = match program.contains('/') {
        true => Path::new(program).exists(),
        false => env::var_os("PATH").is_some_and(|path| {
            env::split_paths(&path).any(|folder| folder.join(program).exists())
        }),
    };
    if !found {
        let left_out = format!("{program} is not installed (apt-get install {packages})");
        assert!(env::var_os("RPC_REQUIRE_SERVERS").is_none(), "{left_out}");
        // Past the capture of the test's output, so that it is seen although the test passes.
        let _ =
            io::Write::write_all(&mut io::stderr(), format!("left out: {left_out}\n").as_bytes());
    }
    found
}

/// Ports of this machine on which nobody listens. Not from those that the system gives to outgoing
/// connections, and none twice, since a server may be away for a while.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = Vec::new();
    while taken.len() < N {
        let port = 10_000 + u16::try_from(RandomState::new().hash_one(0) % 20_000).unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port))
            && GIVEN.lock().unwrap().insert(port)
        {
            taken.push((port, listener));
        }
    }
    std::array::from_fn(|n| taken[n].0)
}

/// Waits until `what` holds, and fails the test if that takes longer than `bound`.
pub(crate) async fn until(what: &str, bound: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The ids of instances, sorted.
pub(crate) fn ids<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> Vec<&'a str> {
    let mut ids: Vec<_> = instances.into_iter().map(Instance::id).collect();
    ids.sort_unstable();
    ids
}

/// Waits until a watch says that the registry has these.
pub(crate) async fn settled(watch: &mut Watch, wanted: &[&str], bound: Duration) {
    let mut last = None;
    let seen = async {
        loop {
            let snapshot = watch.changed().await.unwrap();
            if ids(&snapshot) == wanted && snapshot.is_current() {
                return;
            }
            last = Some(snapshot);
        }
    };
    let seen = tokio::time::timeout(bound, seen).await;
    assert!(seen.is_ok(), "the watch never said {wanted:?}, but at last {last:?}");
}
