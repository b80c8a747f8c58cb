//! Attacks on a separate process: their cost, and the effect on other clients.
//!
//! A test program with attacks has a test `child`, see [`process`](crate::process), which calls
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
//! Attacks of one program run one after the other, so that they do not affect each other's
//! measurements.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use rpc_runtime::{Client, Server};

use crate::pace::{Delays, PacedCalls};
use crate::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use crate::process::{Process, SAYS, setting};
use crate::turn;
use crate::waiting::within;
use crate::wire::{RawPeer, RawServer};

/// Maximum memory of a victim.
pub const MOST_MEMORY: u64 = 400 << 20;
/// Maximum delay of a bystander's call.
pub const LONGEST_DELAY: Duration = Duration::from_millis(250);
/// Repetitions if only the delay is too long: another program may have used the processors. A delay
/// that the victim causes occurs each time.
const ATTEMPTS: usize = 3;
/// Additional time of an attack on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Duration of an attack on a client.
pub const CLIENT_TIME: Duration = Duration::from_millis(600);

const SERVER: &str = "victim-server";
const CLIENT: &str = "victim-client";
const HOSTILE: &str = "RPC_TESTS_HOSTILE";
const GOOD: &str = "RPC_TESTS_GOOD";

/// Duration of an attack on a server: half a second, or `RPC_ATTACK_SECONDS`.
pub fn attack_time() -> Duration {
    let seconds = std::env::var("RPC_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_millis(500), Duration::from_secs)
}

/// A process under attack.
#[derive(Debug)]
pub struct Victim {
    process: Process,
    says: String,
}

/// The cost of an attack for its victim.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Peak memory of the process, in bytes.
    pub peak: u64,
    /// Processor time of the attack.
    pub cpu: Duration,
    /// Bytes that the attacker sent.
    pub sent: u64,
    /// The delays of a bystander's calls during the attack.
    pub delays: Delays,
}

impl Victim {
    /// Starts this program's test `child` in a role, and waits for its first [line](SAYS).
    pub async fn start(role: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = Process::start(role, settings);
        let said = tokio::task::spawn_blocking(move || (process.says(), process)).await;
        let (says, process) = said.unwrap();
        Self { process, says }
    }

    /// A server of the probe with default settings.
    pub async fn server() -> Self {
        Self::start(SERVER, &[]).await
    }

    /// The child's first line; for a server, its URI.
    pub fn says(&self) -> &str {
        &self.says
    }

    /// Peak memory of the process so far, in bytes.
    pub fn peak(&self) -> u64 {
        self.process.peak_memory() as u64
    }

    /// Processor time of the process so far, in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The program's name, in parentheses, may contain any character.
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

    /// Attacks a server that also provides the probe, at its URI. The attack returns the number of
    /// bytes sent. The bystander is a client with these settings.
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
    /// Whether peak memory and longest delay are within the limits.
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

/// Attacks a default server. Fails the test unless the server survives, stays below
/// [`MOST_MEMORY`], and answers a bystander within [`LONGEST_DELAY`].
pub async fn server_endures<F>(what: &str, attack: impl Fn(String) -> F)
where
    F: Future<Output = u64>,
{
    repeated(what, async || Victim::server().await.under(Client::builder(), &attack).await).await;
}

/// The same for a client with default settings. It calls a provider that runs the script on each
/// connection after its hello. The bystander is another client of the same process with an honest
/// provider.
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

/// Repeats the measurement if only the delay is too long, and fails the test in the end.
pub async fn repeated(what: &str, attack: impl AsyncFn() -> Damage) {
    let _turn = turn::mine().await;
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

/// Calls the hostile provider and ignores the results, and an honest provider, whose delays it
/// prints.
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
