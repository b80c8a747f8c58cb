//! A registry whose lists are long, wrong, and change all the time: other clients of the process do
//! not wait.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rpc_registry::Instance;
use rpc_runtime::Client;
use rpc_tests::pace::{Delays, PacedCalls};
use rpc_tests::probe::{PROBE_DESCRIPTOR, Probe, ProbeClient, serve};
use rpc_tests::process::{SAYS, setting};
use rpc_tests::victim::{self, Damage, Victim, attack_time};

use super::long_lists::{Said, instance};

/// The role of a child that follows lists.
pub(crate) const FOLLOWER: &str = "follower";
const GOOD: &str = "RPC_TESTS_GOOD";
const LISTS: &str = "RPC_TESTS_LISTS";
const SUBSET: &str = "RPC_TESTS_SUBSET";

fn lists(kind: &str) -> Vec<Vec<Instance>> {
    let of = |all: usize, one: &dyn Fn(usize) -> Instance| (0..all).map(one).collect();
    let refused =
        |n: usize| format!("tcp://127.{}.{}.{}:1", 1 + n / 40_000, n / 200 % 200, 1 + n % 200);
    let list = |round: usize| match kind {
        "new each time" => of(20_000, &|n| {
            let at = n + 20_000 * round;
            instance(format!("{round}-{n}"), &refused(at))
        }),
        "one id" => of(20_000, &|n| instance("one".into(), &refused(n + 20_000 * round))),
        "one address" => of(20_000, &|n| instance(format!("{round}-{n}"), &refused(n / 1_000))),
        "nobody" => of(20_000, &|n| {
            instance(format!("{round}-{n}"), &format!("tcp://240.{round}.0.1:{}", 1 + n))
        }),
        other => panic!("{other}"),
    };
    (0..3).map(list).collect()
}

pub(crate) fn play() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let registry = Said::new();
        let lists = lists(&setting(LISTS));
        let client = Client::builder().lazy(true);
        let client = match &*setting(SUBSET) {
            "all" => client.subset(usize::MAX),
            _ => client,
        };
        let client = client.discover(Arc::clone(&registry) as _, &PROBE_DESCRIPTOR).await.unwrap();
        let good = PacedCalls::start(Client::builder(), &setting(GOOD));
        let ends = Instant::now() + 2 * attack_time();
        let saying = std::thread::spawn(move || {
            for list in lists.iter().cycle().take_while(|_| Instant::now() < ends) {
                registry.say(list.clone());
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let probe = ProbeClient::new(client).with_timeout(Duration::from_millis(200));
        while Instant::now() < ends {
            assert!(probe.add(1, 2).await.is_err());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let delays = good.finish().await;
        saying.join().unwrap();
        let micros: Vec<_> = delays.iter().map(|delay| delay.as_micros().to_string()).collect();
        println!("{SAYS} {}", micros.join(" "));
        std::future::pending::<()>().await;
    });
}

async fn endures(kind: &str, subset: &str) {
    victim::repeated(&format!("{kind}, subset {subset}"), async || {
        let (good, _) = serve("tcp://127.0.0.1:0").await;
        let settings = [(GOOD, good.local_uri()), (LISTS, kind), (SUBSET, subset)];
        let mut client = Victim::start(FOLLOWER, &settings).await;
        client.lives();
        let delays = client.says().split(' ').map(|micros| micros.parse().unwrap());
        let delays = Delays::from_iter(delays.map(Duration::from_micros));
        Damage { peak: client.peak(), cpu: client.cpu(), sent: 0, delays }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_twenty_thousand_that_change_wholly_ten_times_a_second() {
    endures("new each time", "default").await;
    endures("new each time", "all").await;
    endures("nobody", "default").await;
    endures("nobody", "all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_with_one_id_for_all_and_with_one_address_under_a_thousand_ids() {
    for kind in ["one id", "one address"] {
        endures(kind, "default").await;
        endures(kind, "all").await;
    }
}
