//! [`Attendant`]: keeps one server up to date with what this process announces.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_registry::RegistryError;
use rpc_runtime::Streaming;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::NameServersSettings;
use super::roll::{Roll, Task, Verdict};
use super::server::RemoteServer;
use crate::contract::{Change, NameError, NameService, Refusal, Why, pack};

/// A report is cut where it is larger, so that none takes long.
const REPORT_BYTES: usize = 1 << 20;
/// Instances of a report, likewise.
const REPORT_CHANGES: usize = 2_000;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Attends one server, for as long as this process announces something.
pub(super) struct Attendant {
    pub(super) index: usize,
    pub(super) server: Arc<RemoteServer>,
    pub(super) roll: Arc<Roll>,
    pub(super) settings: Arc<NameServersSettings>,
    pub(super) session: u64,
}

/// The version of the data that the server was told last.
#[derive(Default)]
struct Told {
    /// 0 while it is being told.
    version: AtomicU64,
}

impl Attendant {
    pub(super) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut away = false;
        loop {
            let begun = Instant::now();
            let why = match self.attend(&mut away).await {
                Ok(()) => return,
                Err(why) => why,
            };
            self.roll.failed(self.index, &why);
            if self.roll.is_done(self.index) {
                return;
            }
            // Once: the others may be all that is needed, for long.
            if !std::mem::replace(&mut away, true) {
                tracing::warn!(%why, "a name server is away; trying again until it is back");
            }
            if begun.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = sleep(spread(pause)) => {}
                () = self.roll.news(self.index) => {}
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Ready without an error when there is no more to do.
    async fn attend(&self, away: &mut bool) -> Result<(), RegistryError> {
        let expiry = u64::try_from(self.settings.expiry.as_millis()).unwrap_or(u64::MAX);
        let attended = self.server.stub.attend(self.session, expiry).await;
        let stream = attended.map_err(|error| self.explain(error))?;
        if std::mem::take(away) {
            tracing::info!(server = self.server.uri, "a name server is back, and is told all");
        }
        let (version, all) = self.roll.begin(self.index);
        let told = Told::default();
        // Each on its own: a renewal does not wait for a report, however long that takes.
        tokio::select! {
            over = self.over(stream) => Err(over),
            over = self.renew(&told) => Err(over),
            done = self.report(&told, version, all) => done,
        }
    }

    async fn over(&self, mut stream: Streaming<()>) -> RegistryError {
        match stream.next().await {
            Some(Err(error)) => self.explain(error.into()),
            _ => self.explain(NameError::NoSession),
        }
    }

    /// Renews until the server has to be told all again.
    async fn renew(&self, told: &Told) -> RegistryError {
        let interval = self.settings.interval;
        let mut ticks = interval_at(Instant::now() + interval, interval);
        // One that comes late is made up for at once, and the next a whole interval later.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (at, version) = (Instant::now(), told.version.load(Ordering::Relaxed));
            match self.server.stub.renew(self.session, version).await {
                Ok(true) => self.roll.renewed(self.index, at),
                // What is being told right now renews by itself.
                Ok(false) if version == 0 || told.version.load(Ordering::Relaxed) != version => {}
                Ok(false) => return self.explain(NameError::NoSession),
                Err(error) => return self.explain(error.into()),
            }
        }
    }

    /// Tells all, and then what changes.
    async fn report(&self, told: &Told, version: u64, all: Vec<Task>) -> Result<(), RegistryError> {
        self.tell(version, all).await?;
        told.version.store(version, Ordering::Relaxed);
        loop {
            let (mut version, mut tasks) = self.roll.take(self.index);
            while tasks.is_empty() {
                if self.roll.is_done(self.index) {
                    return Ok(());
                }
                self.roll.news(self.index).await;
                (version, tasks) = self.roll.take(self.index);
            }
            told.version.store(0, Ordering::Relaxed);
            self.tell(version, tasks).await?;
            told.version.store(version, Ordering::Relaxed);
        }
    }

    /// Tells the server, in reports of a moderate size. The last one, which may be empty, has the
    /// version.
    async fn tell(&self, version: u64, tasks: Vec<Task>) -> Result<(), RegistryError> {
        let mut tasks = tasks.into_iter().peekable();
        loop {
            let (mut batch, mut bytes) = (Vec::new(), 0_usize);
            while bytes < REPORT_BYTES && batch.len() < REPORT_CHANGES {
                let Some(task) = tasks.next() else { break };
                bytes = bytes.saturating_add(bytes_of(&task.change));
                batch.push(task);
            }
            let is_last = tasks.peek().is_none();
            self.tell_some(if is_last { version } else { 0 }, batch).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn tell_some(&self, version: u64, mut batch: Vec<Task>) -> Result<(), RegistryError> {
        let at = Instant::now();
        for task in &mut batch {
            if let Change::Register { secret: Some(secret), .. } = &mut task.change {
                *secret = secret.at(&self.server.uri);
            }
        }
        let changes: Vec<_> = batch.iter().map(|task| &task.change).collect();
        let told = match pack(&changes) {
            Ok(packed) => self.server.stub.report(self.session, version, packed).await,
            Err(error) => Err(error),
        };
        let mut refusals = match told {
            Ok(refusals) => refusals.into_iter().peekable(),
            Err(error) => {
                let why = self.explain(error);
                for ticket in batch.into_iter().filter_map(|task| task.ticket) {
                    let _ = ticket.send(Verdict::Failed(why.clone()));
                }
                return Err(why);
            }
        };
        for (index, task) in batch.into_iter().enumerate() {
            let refusal = refusals.next_if(|it| usize::try_from(it.index) == Ok(index));
            let verdict = refusal.map_or(Verdict::Done, |it| self.refused(it));
            self.roll.told(self.index, task, verdict, at);
        }
        Ok(())
    }

    fn refused(&self, refusal: Refusal) -> Verdict {
        let what = format!("the name server {} refuses it: {}", self.server.uri, refusal.message);
        let error = match refusal.why {
            Why::Taken => RegistryError::already_exists(what)
                .with_hint("give each provider its own id, or end the other one first"),
            Why::Invalid => RegistryError::invalid_instance(what),
            Why::Full => return Verdict::Failed(RegistryError::unavailable(what)),
            Why::Denied => RegistryError::permission_denied(what),
        };
        Verdict::Refused(error.with_registry(&self.settings.uri))
    }

    /// Without the registry's URI, which who sums up the servers' answers adds once.
    fn explain(&self, error: NameError) -> RegistryError {
        self.server.explain(error)
    }
}

/// Roughly.
fn bytes_of(change: &Change) -> usize {
    let Change::Register { instance, .. } = change else { return 512 };
    let metadata = instance.metadata().iter();
    metadata
        .map(|(key, value)| key.len().saturating_add(value.len()))
        .fold(512_usize.saturating_add(instance.uri().len()), usize::saturating_add)
}

/// Shortened at random by up to a half, so that those who lost a server together don't come back
/// together.
fn spread(pause: Duration) -> Duration {
    let share = u32::try_from(super::random_bits() % 512).unwrap_or_default();
    pause * (512 + share) / 1024
}
