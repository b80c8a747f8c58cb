//! Heartbeats of clients and servers, in virtual time.
#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::Frame;
use rpc_runtime::{
    ChannelHandle, Client, Heartbeat, HeartbeatMode, Result, RpcError, Server, rpc_service,
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
/// How late a timer may fire: that of the driver, and that of the runtime.
const TICK: Duration = Duration::from_millis(12);

#[rpc_service]
pub trait Sleeper {
    async fn sleep(&self, seconds: u64) -> Result<()>;
}

struct Bed;
impl Sleeper for Bed {
    async fn sleep(&self, seconds: u64) -> Result<()> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(())
    }
}

fn every(interval: Duration) -> Heartbeat {
    Heartbeat::default().interval(interval)
}

async fn pair(uri: &str, client: Heartbeat, server: Heartbeat) -> (Server, SleeperClient) {
    let server = Server::builder().provide(SleeperServer::new(Bed)).heartbeat(server);
    let server = server.bind(uri).await.unwrap();
    let client = Client::builder().heartbeat(client).connect(server.local_uri()).await.unwrap();
    (server, SleeperClient::new(client).with_timeout(24 * 3600 * SECOND))
}

fn channel(client: &SleeperClient) -> ChannelHandle {
    AsRef::<Client>::as_ref(client).channels().remove(0)
}

/// Nothing leaves any more.
struct Mute;
impl ChannelHandler for Mute {
    fn write(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        Ok(Flow::Stop)
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_connection_whose_provider_falls_silent_fails_with_the_cause() {
    for mode in [HeartbeatMode::Bidirectional, HeartbeatMode::Client] {
        let heartbeat = every(10 * SECOND).mode(mode);
        let (server, client) =
            pair(&format!("memory:silent-provider-{mode:?}"), heartbeat, heartbeat).await;
        client.sleep(100).await.unwrap();
        let last_heard = Instant::now();
        server.channels().remove(0).change(Change::add_first("mute", Mute)).unwrap();
        let error = client.sleep(3_600).await.unwrap_err();
        let took = last_heard.elapsed();
        assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{mode:?}: {error:?}");
        assert!(error.message().contains("nothing was read for 30"), "{mode:?}: {error}");
        assert!((30 * SECOND..=30 * SECOND + TICK).contains(&took), "{mode:?}: {took:?}");
        // The next call finds a connection that works.
        client.sleep(1).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_lets_go_of_a_consumer_that_falls_silent() {
    for mode in [HeartbeatMode::Bidirectional, HeartbeatMode::Client] {
        let heartbeat = every(10 * SECOND).mode(mode);
        let off = Heartbeat::default().mode(HeartbeatMode::Off);
        let (server, client) =
            pair(&format!("memory:silent-consumer-{mode:?}"), off, heartbeat).await;
        client.sleep(100).await.unwrap();
        assert_eq!(server.channels().len(), 1, "{mode:?}: a consumer that only answers is there");
        channel(&client).change(Change::add_first("mute", Mute)).unwrap();
        tokio::time::sleep(29 * SECOND).await;
        assert_eq!(server.channels().len(), 1, "{mode:?}");
        tokio::time::sleep(SECOND + TICK).await;
        assert_eq!(server.channels().len(), 0, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_ends_agree_on_the_shorter_interval_and_show_the_round_trip() {
    let (server, client) = pair("memory:agreed", Heartbeat::default(), every(5 * SECOND)).await;
    tokio::time::sleep(31 * SECOND).await;
    // Whose timer is first asks; its ping and the pong are signs of life for both.
    let states = [channel(&client), server.channels().remove(0)].map(|channel| {
        assert_eq!(channel.handlers(), ["idle", "heartbeat", "refuse-unknown"]);
        channel.heartbeat()
    });
    assert!((5..=12).contains(&(states[0].sent + states[1].sent)), "{states:?}");
    for state in states {
        assert_eq!((state.unanswered, state.last_rtt.is_some()), (0, state.sent > 0), "{states:?}");
        assert!(state.last_rtt.is_none_or(|rtt| rtt <= TICK), "{states:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_day_costs_no_connection() {
    let (server, client) = pair("memory:quiet", Heartbeat::default(), Heartbeat::default()).await;
    let channel = channel(&client);
    tokio::time::sleep(24 * 3600 * SECOND).await;
    client.sleep(0).await.unwrap();
    assert_eq!(server.channels().len(), 1);
    // On the connection of the first hour.
    let sent = channel.heartbeat().sent + server.channels().remove(0).heartbeat().sent;
    assert!((1_400..=2 * 1_440).contains(&sent), "{sent} pings");
}

#[tokio::test]
async fn a_heartbeat_that_cannot_work_is_refused_before_anything_is_opened() {
    fn says<T>(result: Result<T, RpcError>, what: &str) {
        let error = result.err().unwrap();
        assert!(error.is_invalid() && error.message().contains(what), "{error}");
    }
    let zero = every(Duration::ZERO);
    let short = every(SECOND).timeout(SECOND);
    for (heartbeat, what) in [(zero, "HeartbeatMode::Off"), (short, "it must be 2s at least")] {
        let client = || Client::builder().heartbeat(heartbeat);
        says(client().connect("memory:nobody").await, what);
        let registry = rpc_registry::connect("memory:heartbeats").await.unwrap();
        says(client().discover(registry, &SLEEPER_DESCRIPTOR).await, what);
        let server = Server::builder().provide(SleeperServer::new(Bed)).heartbeat(heartbeat);
        says(server.bind("memory:refused").await, what);
    }
}
