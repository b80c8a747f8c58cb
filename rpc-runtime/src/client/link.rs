//! [`Link`]: one connection to an address, made again when it is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::Instrument;

use super::EndpointSettings;
use super::no_services::NoServices;
use crate::channel::{Channel, clock, driver};
use crate::error::RpcError;
use crate::observe::{self, Side};
use crate::protocol::Hello;
use crate::transport::{self, Transport};
use crate::uri::Uri;

/// The first pause after a failed attempt; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// One connection to an address. It is made when a call needs it. After a failed attempt it is left
/// alone for a while, and calls fail at once.
pub(super) struct Link {
    uri: Uri,
    settings: Arc<EndpointSettings>,
    progress: Mutex<Progress>,
}

/// What came of an attempt, once it is over.
type Outcome = Option<Result<Arc<Channel>, RpcError>>;

enum Look {
    Settled(Result<Arc<Channel>, RpcError>),
    Attempt(watch::Receiver<Outcome>),
}

struct Progress {
    state: State,
    /// Attempts that failed in a row.
    failures: u32,
}

enum State {
    Idle,
    Connecting(watch::Receiver<Outcome>),
    Ready(Arc<Channel>),
    BackingOff {
        until: Instant,
        error: RpcError,
    },
    /// The address is no longer in use here.
    Retired,
}

/// What can be had at once.
pub(crate) enum Availability {
    Ready(Arc<Channel>),
    /// An attempt is under way, or is due.
    Connectable,
    /// The last attempt failed and the next is not due.
    BackingOff,
}

impl Link {
    pub(super) fn new(uri: Uri, settings: Arc<EndpointSettings>) -> Arc<Self> {
        let progress = Mutex::new(Progress { state: State::Idle, failures: 0 });
        Arc::new(Self { uri, settings, progress })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn availability(&self) -> Availability {
        match &self.lock().state {
            State::Ready(channel) => Availability::Ready(Arc::clone(channel)),
            State::BackingOff { until, .. } if *until > clock() => Availability::BackingOff,
            State::Idle | State::Connecting(_) | State::BackingOff { .. } => {
                Availability::Connectable
            }
            State::Retired => Availability::BackingOff,
        }
    }

    /// The address is no longer in use: what is in flight is finished, nothing new is sent, no
    /// attempt is made again.
    pub(super) fn retire(&self) {
        let state = std::mem::replace(&mut self.lock().state, State::Retired);
        if let State::Ready(channel) = state {
            channel.retire();
        }
    }

    /// A channel, after waiting for an attempt if need be. Dropping the future leaves the attempt
    /// to the others that wait for it.
    pub(super) async fn connected(self: &Arc<Self>) -> Result<Arc<Channel>, RpcError> {
        let mut attempt = match self.look() {
            Look::Settled(result) => return result,
            Look::Attempt(attempt) => attempt,
        };
        match attempt.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(given_up())),
            Err(_) => Err(given_up()),
        }
    }

    /// Begins an attempt, if one is due, that nobody waits for.
    pub(super) fn begin(self: &Arc<Self>) {
        // Whether there is a connection already is of no interest here.
        let _ = self.look();
    }

    /// What there is, or the attempt that is under way, which this starts if one is due.
    fn look(self: &Arc<Self>) -> Look {
        let mut progress = self.lock();
        match &progress.state {
            State::Ready(channel) => return Look::Settled(Ok(Arc::clone(channel))),
            State::Connecting(attempt) => return Look::Attempt(attempt.clone()),
            State::BackingOff { until, error } if *until > clock() => {
                return Look::Settled(Err(error.clone()));
            }
            State::Retired => {
                let gone = format!("{} was withdrawn from the registry", self.uri);
                return Look::Settled(Err(RpcError::unavailable(gone)));
            }
            State::Idle | State::BackingOff { .. } => {}
        }
        let (outcome, attempt) = watch::channel(None);
        progress.state = State::Connecting(attempt.clone());
        drop(progress);
        let run = Attempt { link: Some(Arc::clone(self)), outcome }.run();
        self.settings.runtime.spawn(run);
        Look::Attempt(attempt)
    }

    /// Connects, and waits for the provider's hello: an operating system takes connections for a
    /// process that may never look at them, and nobody could say whether a call sent there was run.
    async fn connect(self: &Arc<Self>) -> Result<Arc<Channel>, RpcError> {
        let timeout = self.settings.connect_timeout;
        let mut missing = "cannot connect: no answer";
        let attempt = async {
            let transport = transport::connect(&self.uri, &self.settings.transport).await?;
            missing = "connected, but no hello came";
            let channel = CloseUnlessGreeted(Some(self.open(transport)?));
            channel.greeted().await
        };
        let outcome = tokio::time::timeout(timeout, attempt).await;
        outcome
            .unwrap_or_else(|_| Err(RpcError::unavailable(format!("{missing} within {timeout:?}"))))
            .map_err(|error| error.with_peer(&self.uri).unexecuted())
    }

    /// Starts a channel over an open connection.
    fn open(self: &Arc<Self>, transport: Transport) -> Result<Arc<Channel>, RpcError> {
        let hello = Hello {
            max_payload: u32::try_from(self.settings.channel.max_payload).unwrap_or(u32::MAX),
            heartbeat_ms: self.settings.channel.heartbeat.hello_ms(),
            ..Hello::default()
        };
        tracing::debug!(uri = %self.uri, "connected");
        let initializer = self.settings.initializer.as_ref();
        let (channel, reader) =
            Channel::new(transport, self.settings.channel, &hello, initializer)?;
        let link = Arc::downgrade(self);
        let driven = Arc::clone(&channel);
        let span = observe::connection(Side::Client, channel.peer());
        let driver = driver::run(Arc::clone(&driven), reader, NoServices);
        tokio::spawn(async move {
            match span {
                None => driver.await,
                Some(span) => Box::pin(driver.instrument(*span)).await,
            }
            if let Some(link) = link.upgrade() {
                link.forget(&driven);
            }
        });
        Ok(channel)
    }

    /// Settles an attempt.
    fn settle(&self, result: Result<Arc<Channel>, RpcError>) {
        let mut progress = self.lock();
        match (&progress.state, result) {
            (State::Retired, Ok(channel)) => channel.retire(),
            (State::Retired, Err(_)) => {}
            (_, Ok(channel)) => progress.state = State::Ready(channel),
            (_, Err(error)) => progress.back_off(&self.uri, error),
        }
    }

    /// `channel` takes no more calls: the next call connects again, at once.
    /// Says whether it was the one of this link.
    pub(super) fn forget(&self, channel: &Arc<Channel>) -> bool {
        self.forget_if(|known| Arc::ptr_eq(known, channel))
    }

    /// Forgets a channel that takes no more calls.
    pub(super) fn forget_unless_open(&self) {
        self.forget_if(|channel| !channel.is_open());
    }

    fn forget_if(&self, forget: impl FnOnce(&Arc<Channel>) -> bool) -> bool {
        let mut progress = self.lock();
        let forgotten = matches!(&progress.state, State::Ready(channel) if forget(channel));
        if forgotten {
            progress.failures = 0;
            progress.state = State::Idle;
        }
        forgotten
    }
}

impl Progress {
    /// An attempt failed: no other is made for a while, a longer one each time.
    fn back_off(&mut self, uri: &Uri, error: RpcError) {
        self.failures = self.failures.saturating_add(1);
        let pause = back_off(self.failures);
        tracing::debug!(%uri, %error, ?pause, "connection attempt failed");
        self.state = State::BackingOff { until: clock() + pause, error: error.unexecuted() };
    }
}

impl Drop for Link {
    /// Nobody can call here any more.
    fn drop(&mut self) {
        self.retire();
    }
}

/// A connection attempt; if its task is dropped, those who wait for it are told.
struct Attempt {
    /// Until it is settled.
    link: Option<Arc<Link>>,
    outcome: watch::Sender<Outcome>,
}

impl Attempt {
    async fn run(mut self) {
        if let Some(link) = &self.link {
            let result = link.connect().await;
            link.settle(result.clone());
            // Whoever waited gets this connection, even if it has ended again by now.
            self.outcome.send_replace(Some(result));
        }
        self.link = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.settle(Err(given_up()));
        }
    }
}

/// A connection without a hello is of no use to anybody.
struct CloseUnlessGreeted(Option<Arc<Channel>>);

impl CloseUnlessGreeted {
    async fn greeted(mut self) -> Result<Arc<Channel>, RpcError> {
        if let Some(channel) = &self.0 {
            channel.greeted().await?;
        }
        self.0.take().ok_or_else(given_up)
    }
}

impl Drop for CloseUnlessGreeted {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            channel.close(RpcError::unavailable("the peer did not send its hello"));
        }
    }
}

fn given_up() -> RpcError {
    RpcError::unavailable("the connection attempt was given up").unexecuted()
}

/// The pause after so many failures in a row, within ±50 %, so that the clients of a provider that
/// comes back do not all arrive at once.
fn back_off(failures: u32) -> Duration {
    let doubled = FIRST_BACK_OFF
        .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(LONGEST_BACK_OFF).mul_f64(0.5 + random_fraction())
}

/// A number in 0..1. The standard library's hasher keys are random, which is enough for this.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_within_its_jitter_up_to_the_longest() {
        for failures in 1..100 {
            let nominal = FIRST_BACK_OFF.as_secs_f64() * 2_f64.powi(failures as i32 - 1);
            let nominal = nominal.min(LONGEST_BACK_OFF.as_secs_f64());
            let pause = back_off(failures).as_secs_f64();
            assert!((nominal * 0.5..=nominal * 1.5).contains(&pause), "{failures}: {pause}");
        }
    }
}
