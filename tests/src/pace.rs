//! Calls on a schedule, and their durations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rpc_runtime::ClientBuilder;

use crate::probe::{Probe, ProbeClient};

/// Interval between the starts of two calls.
const EVERY: Duration = Duration::from_millis(5);

/// A well-behaved client that makes a small call every 5 ms, also while earlier ones are not
/// answered. So all calls of that time show a server that is stuck.
///
/// Runs on its own thread and runtime.
#[derive(Debug)]
pub struct PacedCalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Delays>,
}

/// The durations of calls, the shortest first.
#[derive(Clone, Debug, Default)]
pub struct Delays(Vec<Duration>);

impl PacedCalls {
    /// Starts the calls.
    pub fn start(client: ClientBuilder, uri: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, uri) = (Arc::clone(&stop), uri.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(calls(client, &uri, &stopped))
        });
        Self { stop, thread }
    }

    /// Stops the calls. Fails the test if a call failed.
    pub async fn finish(self) -> Delays {
        self.stop.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await.unwrap();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn calls(client: ClientBuilder, uri: &str, stopped: &AtomicBool) -> Delays {
    let probe = ProbeClient::new(client.connect(uri).await.unwrap());
    // The first call exchanges the contract and is not measured.
    assert_eq!(probe.add(0, 1).await, Ok(1), "the bystander's first call");
    let mut tasks = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(EVERY);
    let mut n = 0;
    while !stopped.load(Ordering::Relaxed) {
        tick.tick().await;
        n += 1;
        let probe = probe.clone();
        tasks.spawn(async move {
            let started = Instant::now();
            assert_eq!(probe.add(n, 1).await, Ok(n + 1), "the bystander's call");
            started.elapsed()
        });
    }
    tasks.join_all().await.into_iter().collect()
}

impl FromIterator<Duration> for Delays {
    fn from_iter<I: IntoIterator<Item = Duration>>(delays: I) -> Self {
        let mut delays: Vec<_> = delays.into_iter().collect();
        delays.sort_unstable();
        Self(delays)
    }
}

impl Delays {
    /// The number of calls.
    pub fn calls(&self) -> usize {
        self.0.len()
    }

    /// All durations.
    pub fn iter(&self) -> impl Iterator<Item = Duration> {
        self.0.iter().copied()
    }

    /// The median.
    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The longest call.
    pub fn worst(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}
