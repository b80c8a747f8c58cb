//! [`ServerSession`]: keeps one server up to date with the registrations of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_registry::{BackOff, RegistryError};
use rpc_runtime::Streaming;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::NameServersSettings;
use super::local_registrations::LocalRegistrations;
use super::server::RemoteServer;
use super::task::{Task, TaskResult};
use crate::contract::{Change, NameError, NameService, Refusal, Why, pack};

/// Maximum size of a report in bytes, so that none takes long.
const REPORT_BYTES: usize = 1 << 20;
/// Maximum changes of a report, for the same reason.
const REPORT_CHANGES: usize = 2_000;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The session of this process at one server, as long as there are registrations.
pub(super) struct ServerSession {
    pub(super) index: usize,
    pub(super) server: Arc<RemoteServer>,
    pub(super) registrations: Arc<LocalRegistrations>,
    pub(super) settings: Arc<NameServersSettings>,
    pub(super) session: u64,
}

/// The version of the data that was last sent to the server.
#[derive(Default)]
struct Told {
    /// 0 while data is being sent.
    version: AtomicU64,
}

impl ServerSession {
    pub(super) async fn run(self) {
        let mut back_off = BackOff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut away = false;
        loop {
            let begun = Instant::now();
            let why = match self.attend(&mut away).await {
                Ok(()) => return,
                Err(why) => why,
            };
            self.registrations.detach(self.index, &why);
            if self.registrations.is_done(self.index) {
                return;
            }
            // Logged once: the other servers may suffice for a long time.
            if !std::mem::replace(&mut away, true) {
                tracing::warn!(%why, "a name server is away; trying again until it is back");
            }
            let lasted = begun.elapsed();
            if lasted > LONGEST_PAUSE {
                back_off.lasted(lasted);
            }
            tokio::select! {
                () = sleep(back_off.next_pause()) => {}
                () = self.registrations.wait(self.index) => {}
            }
        }
    }

    /// Completes without an error when the session is no longer needed.
    async fn attend(&self, away: &mut bool) -> Result<(), RegistryError> {
        let expiry = u64::try_from(self.settings.lease.as_millis()).unwrap_or(u64::MAX);
        let attended = self.server.stub.attend(self.session, expiry).await;
        let stream = attended.map_err(|error| self.explain(error))?;
        if std::mem::take(away) {
            tracing::info!(server = self.server.uri, "a name server is back, and is told all");
        }
        let (version, all) = self.registrations.attach(self.index);
        let told = Told::default();
        // Concurrently: a renewal does not wait for a long report.
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

    /// Renews until the server needs all registrations again.
    async fn renew(&self, told: &Told) -> RegistryError {
        let interval = self.settings.interval;
        let mut ticks = interval_at(Instant::now() + interval, interval);
        // A late renewal is sent at once, and the next one an interval later.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (at, version) = (Instant::now(), told.version.load(Ordering::Relaxed));
            match self.server.stub.renew(self.session, version).await {
                Ok(true) => self.registrations.renewed(self.index, at),
                // The report that is being sent renews the session.
                Ok(false) if version == 0 || told.version.load(Ordering::Relaxed) != version => {}
                Ok(false) => return self.explain(NameError::NoSession),
                Err(error) => return self.explain(error.into()),
            }
        }
    }

    /// Sends all registrations, and then the changes.
    async fn report(&self, told: &Told, version: u64, all: Vec<Task>) -> Result<(), RegistryError> {
        self.tell(version, all).await?;
        told.version.store(version, Ordering::Relaxed);
        loop {
            let (mut version, mut tasks) = self.registrations.take(self.index);
            while tasks.is_empty() {
                if self.registrations.is_done(self.index) {
                    return Ok(());
                }
                self.registrations.wait(self.index).await;
                (version, tasks) = self.registrations.take(self.index);
            }
            told.version.store(0, Ordering::Relaxed);
            self.tell(version, tasks).await?;
            told.version.store(version, Ordering::Relaxed);
        }
    }

    /// Sends tasks in reports of limited size. The last one, which may be empty, has the version.
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
                for result_sender in batch.into_iter().filter_map(|task| task.result_sender) {
                    let _ = result_sender.send(TaskResult::Failed(why.clone()));
                }
                return Err(why);
            }
        };
        for (index, task) in batch.into_iter().enumerate() {
            let refusal = refusals.next_if(|it| usize::try_from(it.index) == Ok(index));
            let result = refusal.map_or(TaskResult::Accepted, |it| self.refused(it));
            self.registrations.note_result(self.index, task, result, at);
        }
        Ok(())
    }

    fn refused(&self, refusal: Refusal) -> TaskResult {
        let what = format!("the name server {} refuses it: {}", self.server.uri, refusal.message);
        let error = match refusal.why {
            Why::Taken => RegistryError::already_exists(what)
                .with_hint("give each provider its own id, or end the other one first"),
            Why::Invalid => RegistryError::invalid_instance(what),
            Why::Full => return TaskResult::Failed(RegistryError::unavailable(what)),
            Why::Denied => RegistryError::permission_denied(what),
        };
        TaskResult::Refused(error.with_registry(&self.settings.uri))
    }

    /// Without the URI of the registry, which the caller adds once to the errors of all servers.
    fn explain(&self, error: NameError) -> RegistryError {
        self.server.explain(error)
    }
}

/// The approximate size of a change.
fn bytes_of(change: &Change) -> usize {
    let Change::Register { instance, .. } = change else { return 512 };
    let metadata = instance.metadata().iter();
    metadata
        .map(|(key, value)| key.len().saturating_add(value.len()))
        .fold(512_usize.saturating_add(instance.uri().len()), usize::saturating_add)
}
