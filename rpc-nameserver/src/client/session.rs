//! [`RegistrationSession`]: one registration of this process, at all servers.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{BoxFuture, RegistryError, Session};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::NameServersSettings;
use super::local_registrations::LocalRegistrations;
use super::reader::none_answers;
use super::task::{Key, TaskResult};

/// Additional wait after the timeout of a server, so that its error is received.
const SLACK: Duration = Duration::from_millis(250);

/// A registration. Dropping it removes it.
pub(super) struct RegistrationSession {
    pub(super) registrations: Arc<LocalRegistrations>,
    pub(super) settings: Arc<NameServersSettings>,
    pub(super) key: Key,
    pub(super) number: u64,
}

impl RegistrationSession {
    /// Completes when it is lost: no server has confirmed it for its lease, or one has refused it
    /// and no other has it.
    pub(super) fn lost(
        &self,
        refused: oneshot::Receiver<RegistryError>,
    ) -> BoxFuture<'static, RegistryError> {
        let (registrations, key, number) =
            (Arc::clone(&self.registrations), self.key.clone(), self.number);
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            let why = tokio::select! {
                why = lapsed(&registrations, &key, number, settings.lease) => why,
                Ok(why) = refused => why,
            };
            // The next attempt is another registration.
            registrations.remove(&key, number);
            why.with_registry(&settings.uri)
        })
    }
}

async fn lapsed(
    registrations: &LocalRegistrations,
    key: &Key,
    number: u64,
    lease: Duration,
) -> RegistryError {
    while let Some(due) = registrations.due(key, number, lease) {
        if due <= Instant::now() {
            return RegistryError::unavailable(format!(
                "no name server has confirmed the instance {:?} of {:?} for {lease:?}",
                key.1, key.0
            ));
        }
        sleep_until(due).await;
    }
    std::future::pending().await
}

impl Session for RegistrationSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let mut results = self.registrations.remove(&self.key, self.number);
            let told = Results::of(&mut results, self.settings.timeout).await;
            if told.done == 0 && !told.failures.is_empty() {
                let error = none_answers(&self.settings.uri, told.failures);
                return Err(error.with_hint("the entry goes by itself, with the connection"));
            }
            Ok(())
        })
    }

    fn abandon(&mut self) {
        self.registrations.remove(&self.key, self.number);
    }
}

impl Drop for RegistrationSession {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The results of all servers.
#[derive(Default)]
pub(super) struct Results {
    pub(super) done: usize,
    pub(super) refused: Option<RegistryError>,
    pub(super) failures: Vec<RegistryError>,
}

impl Results {
    /// Waits for all results, or for the first refusal, at most for the timeout.
    pub(super) async fn of(
        results: &mut mpsc::UnboundedReceiver<TaskResult>,
        timeout: Duration,
    ) -> Self {
        let until = Instant::now() + timeout + SLACK;
        let mut outcome = Self::default();
        while let Ok(Some(result)) = timeout_at(until, results.recv()).await {
            match result {
                TaskResult::Accepted => outcome.done = outcome.done.saturating_add(1),
                TaskResult::Failed(error) => outcome.failures.push(error),
                TaskResult::Refused(error) => {
                    outcome.refused = Some(error);
                    break;
                }
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_is_heard_after_one_that_does_not() {
        let (result_sender, mut results) = mpsc::unbounded_channel();
        let (first, second) = (result_sender.clone(), result_sender);
        let outcome = tokio::spawn(async move { Results::of(&mut results, TIMEOUT).await });
        let _ = first.send(TaskResult::Accepted);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = second.send(TaskResult::Refused(RegistryError::already_exists("taken")));
        let outcome = outcome.await.unwrap();
        assert!(outcome.refused.is_some() && outcome.done == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_waited_for_no_longer_than_the_timeout() {
        let (result_sender, mut results) = mpsc::unbounded_channel();
        let _silent = result_sender.clone();
        let _ = result_sender.send(TaskResult::Accepted);
        let begun = Instant::now();
        let outcome = Results::of(&mut results, TIMEOUT).await;
        assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() <= 2 * TIMEOUT);
        assert_eq!((outcome.done, outcome.refused.is_none()), (1, true));
    }
}
