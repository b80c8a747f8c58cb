//! A connection that fails silently, and how both ends detect it. Takes about ten seconds.
//!
//! ```text
//! cargo run --bin heartbeat
//! ```
//!
//! Consumer and provider run in two threads with separate runtimes. Between them is a proxy, which
//! stops forwarding without closing the connection. To both ends this looks like an unplugged
//! cable.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::any::Any;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rpc_examples::{Hello, HelloService, HelloServiceClient, HelloServiceServer};
use rpc_runtime::handlers::IdleEvent;
use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Frame, Kind};
use rpc_runtime::{ChannelHandle, Client, Heartbeat, RpcError, Server};
use tokio::io;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// Short, for the demonstration. The timeout is three intervals.
const INTERVAL: Duration = Duration::from_secs(1);

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

fn say(who: &str, what: impl std::fmt::Display) {
    println!("{:6.2} s  {who:8}  {what}", STARTED.elapsed().as_secs_f64());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    LazyLock::force(&STARTED);
    let (announce, announced) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let provider = thread::spawn(move || provide(announce, stopped));
    let provider_uri = announced.await.context("the provider did not start")?;
    let (proxy_uri, cut) = proxy(&provider_uri).await?;

    let client = Client::builder()
        .heartbeat(Heartbeat::default().interval(INTERVAL))
        .pipeline(|| vec![watch_idleness("consumer")])
        .connect(&proxy_uri)
        .await?;
    let hello = HelloServiceClient::new(client.clone());
    say("consumer", hello.hello("world".into()).await?);

    say("you", "now there are no calls; only heartbeats are sent");
    // Ends between two heartbeats, so that no ping is in flight when the state is printed.
    sleep(INTERVAL * 7 / 2).await;
    let channel = client.channels().pop().context("the connection is gone")?;
    show(&channel);

    say("you", "now the proxy forwards nothing any more, and the consumer calls");
    cut.send(true)?;
    let patient = hello.with_timeout(Duration::from_secs(60));
    match patient.hello("anybody".into()).await {
        Ok(greeting) => say("consumer", format!("unexpected: {greeting}")),
        Err(error) => say("consumer", error),
    }
    show(&channel);

    say("you", "now the proxy works again for new connections, and the consumer calls");
    cut.send(false)?;
    say("consumer", timeout(5 * INTERVAL, hello.hello("again".into())).await??);
    sleep(INTERVAL * 5 / 2).await;
    show(&client.channels().pop().context("the new connection is gone")?);

    client.close().await;
    // If the provider has failed, joining returns the reason. The proxy needs this thread
    // meanwhile.
    let _ = stop.send(());
    let ended = spawn_blocking(|| provider.join()).await?;
    ended.map_err(|_| anyhow::anyhow!("the provider panicked"))?
}

/// Provides the service in a separate runtime until it is stopped.
#[tokio::main(flavor = "current_thread")]
async fn provide(
    announce: oneshot::Sender<String>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let server = Server::builder()
        .provide(HelloServiceServer::new(Hello))
        .heartbeat(Heartbeat::default().interval(INTERVAL))
        .pipeline(|| vec![watch_idleness("provider")])
        .bind("tcp://127.0.0.1:0")
        .await?;
    // Fails only if the program is about to end.
    let _ = announce.send(server.local_uri().to_owned());
    Ok(server.serve_until(stopped).await?)
}

/// Forwards connections to `target`. When the value becomes true, existing connections are cut
/// permanently.
async fn proxy(target: &str) -> anyhow::Result<(String, watch::Sender<bool>)> {
    let target = target.strip_prefix("tcp://").context("not a tcp address")?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("tcp://{}", listener.local_addr()?);
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(forward(near, target.clone(), is_cut.clone()));
        }
    });
    Ok((uri, cut))
}

async fn forward(mut near: TcpStream, target: String, mut is_cut: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let forwarded = tokio::select! {
        _ = io::copy_bidirectional(&mut near, &mut far) => true,
        _ = is_cut.wait_for(|cut| *cut) => false,
    };
    if !forwarded {
        // The connections stay open without being read, so neither end is notified.
        sleep(Duration::from_secs(60)).await;
    }
}

fn show(channel: &ChannelHandle) {
    let state = channel.heartbeat();
    let rtt = state.smoothed_rtt.map_or_else(|| "unknown".into(), |rtt| format!("{rtt:?}"));
    say(
        "you",
        format!(
            "pings of the consumer on this connection: {}, unanswered: {}, round trip: {rtt}",
            state.sent, state.unanswered
        ),
    );
}

/// Prints the heartbeats of a connection. The handler is between the idle and the heartbeat
/// handler.
fn watch_idleness(who: &'static str) -> Change {
    Change::add_after("idle", "watch-idleness", WatchIdleness { who, unanswered: 0 })
}

struct WatchIdleness {
    who: &'static str,
    unanswered: u32,
}

impl ChannelHandler for WatchIdleness {
    fn user_event(&mut self, _: &mut ChannelContext<'_>, event: &(dyn Any + Send)) -> Handled {
        if let Some(IdleEvent { kind, idle, .. }) = event.downcast_ref() {
            say(self.who, format!("{kind:?} idle for {:.1} s", idle.as_secs_f64()));
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        if frame.header.kind == Kind::Ping {
            self.unanswered += 1;
            say(self.who, format!("ping {}", frame.header.id));
        }
        Ok(Flow::Next)
    }

    fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        if frame.header.kind == Kind::Pong {
            self.unanswered = 0;
        }
        Ok(Flow::Next)
    }

    fn channel_inactive(&mut self, _: &mut ChannelContext<'_>, cause: &RpcError) -> Handled {
        say(self.who, format!("connection closed, {} pings missed: {cause}", self.unanswered));
        Ok(Flow::Next)
    }
}
