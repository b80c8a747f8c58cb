//! A process of its own that is attacked: what the attack cost it, and whether others noticed.
//!
//! A test program that attacks has a test `child`, see [`process`](crate::process), which calls
//! [`play`] for the roles of this module. An attack is then a few lines:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use rpc_tests::{victim, wire::{RawPeer, bare}};
//! # use rpc_runtime::protocol::Kind;
//! # async fn test() {
//! victim::server_endures("pings that are not read", |uri| async move {
//!     let mut peer = RawPeer::connect(&uri).await;
//!     peer.flood(&bare(Kind::Ping, 1).repeat(1_000), Duration::from_secs(1)).await
//! })
//! .await;
//! # }
//! ```
//!
//! Attacks of one program take turns, so that they do not measure each other.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use rpc_runtime::{Client, Server};
use tokio::sync::Mutex;

use crate::pace::{Delays, PacedCalls};
use crate::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use crate::process::{Process, SAYS, setting};
use crate::waiting::within;
use crate::wire::{RawPeer, RawServer};

/// No attacker takes more of a victim's memory.
pub const MOST_MEMORY: u64 = 400 << 20;
/// No call of a bystander takes longer.
pub const LONGEST_DELAY: Duration = Duration::from_millis(250);
/// Attacks are measured again when only the delay is too long: another program may have had the
/// processors. What the victim does to its bystanders, it does each time.
const ATTEMPTS: usize = 3;
/// An attack may take this much longer than its time, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client is attacked.
pub const CLIENT_TIME: Duration = Duration::from_millis(600);

const SERVER: &str = "victim-server";
const CLIENT: &str = "victim-client";
const HOSTILE: &str = "RPC_TESTS_HOSTILE";
const GOOD: &str = "RPC_TESTS_GOOD";

/// How long a server is attacked: half a second, or `RPC_ATTACK_SECONDS`.
pub fn attack_time() -> Duration {
    let seconds = std::env::var("RPC_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_millis(500), Duration::from_secs)
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A process under attack.
#[derive(Debug)]
pub struct Victim {
    process: Process,
    says: String,
}

/// What an attack cost its victim.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Most memory that the process had at any time, in bytes.
    pub peak: u64,
    /// Processor time of the attack.
    pub cpu: Duration,
    /// What the attacker sent, in bytes.
    pub sent: u64,
    /// How long the calls of a bystander took meanwhile.
    pub delays: Delays,
}

impl Victim {
    /// Starts this program's test `child` in a role, and waits for what it [says](SAYS) first.
    pub async fn start(role: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = Process::start(role, settings);
        let said = tokio::task::spawn_blocking(move || (process.says(), process)).await;
        let (says, process) = said.unwrap();
        Self { process, says }
    }

    /// A server of the probe with all settings at their defaults.
    pub async fn server() -> Self {
        Self::start(SERVER, &[]).await
    }

    /// What the child said first; of a server, its URI.
    pub fn says(&self) -> &str {
        &self.says
    }

    /// Most memory that the process has had so far, in bytes.
    pub fn peak(&self) -> u64 {
        self.process.peak_memory() as u64
    }

    /// Processor time of the process so far, in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The name of the program, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.process.id());
        std::fs::read_to_string(path).unwrap()
    }

    /// Fails the test if the process has ended.
    pub fn lives(&mut self) {
        assert!(!self.process.has_ended(), "the attack ended the process");
    }

    /// Attacks a server that provides the probe too, at the URI that it said. The attack's output
    /// is how many bytes it sent. The bystander is a client with these settings.
    pub async fn under<F>(
        &mut self,
        bystander: rpc_runtime::ClientBuilder,
        attack: impl FnOnce(String) -> F,
    ) -> Damage
    where
        F: Future<Output = u64>,
    {
        let before = self.cpu();
        let calls = PacedCalls::start(bystander, &self.says);
        let sent = within(attack_time() + PATIENCE, "the attack", attack(self.says.clone())).await;
        let delays = calls.finish().await;
        self.lives();
        Damage { peak: self.peak(), cpu: self.cpu().saturating_sub(before), sent, delays }
    }
}

impl Damage {
    /// The most memory, and the longest delay, are within what is promised.
    pub fn is_bearable(&self) -> bool {
        self.peak < MOST_MEMORY && self.delays.worst() < LONGEST_DELAY
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peak, cpu, sent, delays } = self;
        write!(
            f,
            "{} KiB sent, peak {} MiB, cpu {cpu:?}, {} calls beside it: median {:?}, worst {:?}",
            sent >> 10,
            peak >> 20,
            delays.calls(),
            delays.median(),
            delays.worst()
        )
    }
}

/// Attacks a default server; fails the test unless it lives, keeps below [`MOST_MEMORY`], and
/// answers a bystander within [`LONGEST_DELAY`].
pub async fn server_endures<F>(what: &str, attack: impl Fn(String) -> F)
where
    F: Future<Output = u64>,
{
    repeated(what, async || Victim::server().await.under(Client::builder(), &attack).await).await;
}

/// The same for a client with all settings at their defaults, which calls a provider that does what
/// the script says with each connection after its hello. The bystander is another client of the
/// same process, whose provider is a good one.
pub async fn client_endures<F>(
    what: &str,
    script: impl Fn(RawPeer) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    repeated(what, async || {
        let hostile = RawServer::start(script.clone()).await;
        let (good, _) = serve("tcp://127.0.0.1:0").await;
        let settings = [(HOSTILE, &*hostile.uri()), (GOOD, good.local_uri())];
        let mut client = Victim::start(CLIENT, &settings).await;
        client.lives();
        let delays = client.says().split(' ').map(|micros| micros.parse().unwrap());
        let delays = Delays::from_iter(delays.map(Duration::from_micros));
        Damage { peak: client.peak(), cpu: client.cpu(), sent: 0, delays }
    })
    .await;
}

/// Measures again when only the delay is too long, and fails the test in the end.
pub async fn repeated(what: &str, attack: impl AsyncFn() -> Damage) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut damage = attack().await;
    for _ in 1..ATTEMPTS {
        if damage.is_bearable() || damage.peak >= MOST_MEMORY {
            break;
        }
        eprintln!("{what}, measured again: {damage}");
        damage = attack().await;
    }
    eprintln!("{what}: {damage}");
    assert!(damage.is_bearable(), "{what}: {damage}");
}

/// Runs a role of this module, in the child process.
pub fn play(role: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match role {
        SERVER => runtime.block_on(async {
            let provider = ProbeServer::new(Provider::new("victim"));
            let server = Server::builder().provide(provider).bind("tcp://127.0.0.1:0");
            let server = server.await.unwrap();
            println!("{SAYS} {}", server.local_uri());
            std::future::pending::<()>().await;
        }),
        CLIENT => runtime.block_on(be_a_client()),
        other => panic!("no role {other}"),
    }
}

/// Calls the hostile provider, whatever comes of it, and a good one, whose delays it says.
async fn be_a_client() {
    let good = PacedCalls::start(Client::builder(), &setting(GOOD));
    let hostile = Client::builder().lazy(true).connect(setting(HOSTILE)).await.unwrap();
    let probe = ProbeClient::new(hostile).with_timeout(Duration::from_millis(500));
    let calls = async {
        loop {
            let (probe, other) = (probe.clone(), probe.clone());
            tokio::spawn(async move { probe.echo("hello".into()).await });
            tokio::spawn(async move { other.add(1, 2).await });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(CLIENT_TIME, calls).await;
    let delays = good.finish().await;
    let micros: Vec<_> = delays.iter().map(|delay| delay.as_micros().to_string()).collect();
    println!("{SAYS} {}", micros.join(" "));
    std::future::pending::<()>().await;
}
