//! Many processes at one folder, killed and stopped at any moment.
//!
//! The processes are this test program itself, told by the environment to run [`child`] in a role.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rpc_registry::{Instance, LeaseState, Registry, Source, connect};

const ROLE: &str = "RPC_REGISTRY_TEST_ROLE";
const FOLDER: &str = "RPC_REGISTRY_TEST_FOLDER";

/// For how many seconds processes are killed, if not for [`SECONDS`].
const LONGER: &str = "RPC_REGISTRY_TEST_SECONDS";
const SECONDS: u64 = 8;

/// The lease time of a provider in the role `hasty`.
const HASTY: Duration = Duration::from_millis(1500);

/// What a child prints when it has done what its role begins with.
const READY: &str = "@ready";

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    let (Ok(role), Ok(folder)) = (std::env::var(ROLE), std::env::var(FOLDER)) else { return };
    // Ends with the parent, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "provider" => provide(registry(&folder).await).await,
            "hasty" => {
                let ttl = HASTY.as_millis();
                provide(connect(format!("file://{folder}?lease={ttl}ms")).await.unwrap()).await;
            }
            "many" => {
                let uri = format!("file://{folder}?lease={}ms", HASTY.as_millis());
                let registry = connect(uri).await.unwrap();
                let mut leases = Vec::new();
                for _ in 0..4 {
                    leases.push(registry.register(own("steady")).await.unwrap());
                }
                provide(registry).await;
            }
            "churn" => churn(&folder).await,
            "lock" => hold_lock(&folder),
            "fill" => fill(&folder).await,
            other => panic!("no role {other}"),
        }
    });
}

async fn provide(registry: Arc<dyn Registry>) {
    let _lease = registry.register(own("steady")).await.unwrap();
    println!("{READY}");
    std::future::pending::<()>().await;
}

/// One registration for life, and others that come and go.
async fn churn(folder: &str) {
    let registry = registry(folder).await;
    let steady = registry.register(own("steady")).await.unwrap();
    println!("{READY}");
    let mut random = Random(u64::from(std::process::id()));
    for round in 0_u64.. {
        let lease = registry.register(own("fleeting")).await.unwrap();
        let id = lease.id().to_owned();
        let found = async |service: &str, id: &str| {
            let found = registry.lookup(service).await.unwrap();
            found.iter().any(|instance| instance.id() == id)
        };
        assert!(found("fleeting", &id).await, "a registration is lost");
        match round % 3 {
            0 => lease.revoke().await.unwrap(),
            1 => drop(lease),
            _ => assert!(registry.unregister("fleeting", &id).await.unwrap()),
        }
        assert!(!found("fleeting", &id).await, "an ended registration is returned");
        assert!(found("steady", steady.id()).await, "a bystander is lost");
        let state = steady.states().now();
        assert!(matches!(state, LeaseState::Held { epoch: 0 }), "not renewed in time: {state:?}");
        // As much as a disk can take that is shared with others.
        tokio::time::sleep(Duration::from_micros(random.below(600_000))).await;
    }
}

fn hold_lock(folder: &str) {
    let file = File::open(Path::new(folder).join("registry.lock")).unwrap();
    file.lock().unwrap();
    println!("{READY}");
    loop {
        std::thread::park();
    }
}

/// Registers until the list no longer fits the limit on the size of files.
async fn fill(folder: &str) {
    let registry = registry(folder).await;
    let mut leases = Vec::new();
    let error = loop {
        match registry.register(own("steady").with_metadata("k", "v".repeat(1000))).await {
            Ok(lease) => leases.push(lease),
            Err(error) => break error,
        }
    };
    let found = registry.lookup("steady").await.unwrap().len();
    // Here, since the leases write again when they are dropped.
    let left_over = Path::new(folder).join("registry.jsonl.new").exists();
    println!("{READY} {} {found} {left_over} {} {error}", leases.len(), error.is_unavailable());
}

fn own(service: &str) -> Instance {
    Instance::new(service, "tcp://127.0.0.1:9000")
        .with_metadata("pid", std::process::id().to_string())
}

async fn registry(folder: &str) -> Arc<dyn Registry> {
    // Generous, so that a machine under load does not fail a test that is not about time.
    connect(format!("file://{folder}?lock_timeout=60000ms")).await.unwrap()
}

/// A child process, killed when dropped.
struct Process {
    child: Child,
}

impl Process {
    fn start(role: &str, folder: &Path) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()), role, folder)
    }

    fn run(mut command: Command, role: &str, folder: &Path) -> Self {
        let child = command
            .args(["processes::child", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Waits for the ready mark and returns what stands after it.
    fn ready(&mut self) -> String {
        let mut output = BufReader::new(self.child.stdout.as_mut().unwrap());
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once(READY) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the child ended before it was ready");
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.pid()]).status().unwrap().success());
    }

    /// `kill -9`, and waits for the end.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process in the role `churn`, which gets ready in the background.
struct Churning {
    process: Process,
    ready: Arc<AtomicBool>,
}

impl Churning {
    fn start(folder: &Path) -> Self {
        let mut process = Process::start("churn", folder);
        let ready = Arc::<AtomicBool>::default();
        let (is_ready, output) = (Arc::clone(&ready), process.child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            is_ready.store(lines.any(|line| line.contains(READY)), Ordering::SeqCst);
            // Read on, so that it can write on.
            lines.for_each(drop);
        });
        Self { process, ready }
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Waits until it is.
    fn ready(mut self) -> Process {
        while !self.is_ready() {
            assert!(self.process.is_running(), "the child ended before it was ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process
    }
}

async fn pids(registry: &Arc<dyn Registry>, service: &str) -> BTreeSet<String> {
    let found = registry.lookup(service).await.unwrap();
    found.iter().map(|instance| instance.metadata()["pid"].clone()).collect()
}

#[tokio::test]
async fn a_killed_provider_is_not_returned_by_the_first_lookup_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path().to_str().unwrap()).await;
    let mut one = Process::start("provider", dir.path());
    let mut two = Process::start("provider", dir.path());
    one.ready();
    two.ready();
    assert_eq!(pids(&registry, "steady").await, BTreeSet::from([one.pid(), two.pid()]));
    one.kill();
    assert_eq!(pids(&registry, "steady").await, BTreeSet::from([two.pid()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_provider_goes_after_its_lease_time_and_comes_back_when_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path().to_str().unwrap()).await;
    let mut watch = registry.watch("steady").await.unwrap();
    let mut provider = Process::start("hasty", dir.path());
    provider.ready();
    while watch.changed().await.unwrap().is_empty() {}

    let stopped = Instant::now();
    provider.signal("-STOP");
    assert_eq!(pids(&registry, "steady").await, BTreeSet::from([provider.pid()]));
    while !watch.changed().await.unwrap().is_empty() {}
    let took = stopped.elapsed();
    // Renewed at most a third of its lease time before it was stopped.
    let expected = HASTY * 2 / 3..HASTY + Duration::from_secs(1);
    assert!(expected.contains(&took), "gone after {took:?}");
    assert!(pids(&registry, "steady").await.is_empty());

    provider.signal("-CONT");
    let back = loop {
        let now = watch.changed().await.unwrap();
        if !now.is_empty() {
            break now;
        }
    };
    assert_eq!(back[0].metadata()["pid"], provider.pid());
    assert_eq!(back[0].epoch(), 1, "it is a new registration");
    provider.kill();
    assert!(pids(&registry, "steady").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_lapse_at_once_are_kept_for_a_while_and_the_dead_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path().to_str().unwrap()).await;
    let mut watch = registry.watch("steady").await.unwrap();
    let mut provider = Process::start("many", dir.path());
    provider.ready();
    while watch.changed().await.unwrap().len() < 5 {}
    provider.signal("-STOP");
    let kept = watch.changed().await.unwrap();
    assert!(matches!(&kept.source, Source::Protected { kept } if kept.len() == 5), "{kept:?}");
    provider.kill();
    while !watch.changed().await.unwrap().is_empty() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_hears_of_a_kill_from_the_kernel_and_not_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("file://{}?poll_interval=1m", dir.path().display());
    let registry = connect(uri).await.unwrap();
    let mut watch = registry.watch("steady").await.unwrap();
    let mut provider = Process::start("provider", dir.path());
    provider.ready();
    while watch.changed().await.unwrap().is_empty() {}
    let killed = Instant::now();
    provider.kill();
    while !watch.changed().await.unwrap().is_empty() {}
    assert!(killed.elapsed() < Duration::from_secs(1), "took {:?}", killed.elapsed());
}

#[tokio::test]
async fn a_stopped_lock_holder_is_a_timeout_for_writers_and_nothing_for_readers() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("file://{}?lock_timeout=300ms", dir.path().display());
    let registry = connect(uri).await.unwrap();
    let _lease = registry.register(own("steady")).await.unwrap();
    let mut holder = Process::start("lock", dir.path());
    holder.ready();
    holder.signal("-STOP");
    let started = Instant::now();
    let error = registry.register(own("steady")).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(error.to_string().contains("registry.lock"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(registry.lookup("steady").await.unwrap().len(), 1);
    holder.kill();
    let _lease = registry.register(own("steady")).await.unwrap();
}

#[test]
fn a_write_that_finds_no_room_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    // The limit on file sizes stands in for a full disk: a write fails half-way.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap());
    let mut child = Process::run(shell, "fill", dir.path());
    let report = child.ready();
    let mut words = report.splitn(5, ' ');
    let (registered, found) = (words.next().unwrap(), words.next().unwrap());
    assert!(registered.parse::<u32>().unwrap() > 1 && registered == found, "{report}");
    assert_eq!(words.next(), Some("false"), "the half-written file was left: {report}");
    assert_eq!(words.next(), Some("true"), "not is_unavailable: {report}");
    assert!(words.next().unwrap().contains("make room"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills_lose_nobody_alive_return_nobody_dead_and_damage_nothing() {
    const PROCESSES: usize = 50;
    let seconds = std::env::var(LONGER).map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path().to_str().unwrap()).await;
    let validator = Validator::start(dir.path());
    let mut watch = registry.watch("steady").await.unwrap();

    let mut processes: Vec<_> = (0..PROCESSES).map(|_| Churning::start(dir.path())).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut kills = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let settled = processes.iter().filter(|process| process.is_ready()).count();
        if settled < PROCESSES / 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        // Any moment of the victim's round, or of its start.
        tokio::time::sleep(Duration::from_micros(random.below(20_000))).await;
        let victim = random.below(PROCESSES as u64) as usize;
        processes[victim].process.kill();
        kills += 1;
        let dead = processes[victim].process.pid();
        assert!(!pids(&registry, "fleeting").await.contains(&dead), "a zombie was returned");
        let ready: BTreeSet<_> = processes
            .iter()
            .enumerate()
            .filter(|(n, process)| *n != victim && process.is_ready())
            .map(|(_, process)| process.process.pid())
            .collect();
        let found = pids(&registry, "steady").await;
        assert!(!found.contains(&dead), "a zombie was returned");
        let lost: Vec<_> = ready.difference(&found).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        processes[victim] = Churning::start(dir.path());
        let all_run = processes.iter_mut().all(|process| process.process.is_running());
        assert!(all_run, "a survivor has failed");
    }
    let mut processes: Vec<_> = processes.into_iter().map(Churning::ready).collect();
    println!("{kills} kills in {seconds} s");
    assert!(kills >= 20, "hardly anybody was killed");

    // A watch finds out within a second, too.
    let killed = Instant::now();
    for process in &mut processes[..PROCESSES / 2] {
        process.kill();
    }
    let living: BTreeSet<_> = processes[PROCESSES / 2..].iter().map(Process::pid).collect();
    loop {
        let snapshot = watch.changed().await.unwrap();
        let pids = snapshot.instances.iter().map(|instance| instance.metadata()["pid"].clone());
        if pids.collect::<BTreeSet<_>>() == living {
            break;
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(1), "took {:?}", killed.elapsed());

    processes.clear();
    assert!(validator.stop() > 100, "the file was hardly looked at");
    let _last = registry.register(own("steady")).await.unwrap();
    let text = fs::read_to_string(dir.path().join("registry.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 2, "dead lines were left: {text}");
    assert_eq!(fs::read_dir(dir.path().join("leases")).unwrap().count(), 1);
}

/// Reads the list again and again, as any other program would, and checks that it is whole.
struct Validator {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Validator {
    fn start(folder: &Path) -> Self {
        let path = folder.join("registry.jsonl");
        let (stop, looks) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&looks));
        let thread = std::thread::spawn(move || {
            let mut seen = false;
            while !stopped.load(Ordering::Relaxed) {
                match fs::read_to_string(&path) {
                    Ok(text) => {
                        seen = true;
                        assert!(text.starts_with("{\"rpc_registry\":1,"), "{text:?}");
                        assert!(text.ends_with('\n'), "{text:?}");
                        for line in text.lines() {
                            let _: serde_json::Map<String, serde_json::Value> =
                                serde_json::from_str(line).unwrap();
                        }
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => assert!(!seen, "the list was missing: {error}"),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, looks, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.looks.load(Ordering::Relaxed)
    }
}

/// The same kills in each run, as far as the machine allows (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
