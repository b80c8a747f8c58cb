//! [`Registration`]: one registration of this process, at all servers.

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{BoxFuture, RegistryError, Session};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::NameServersSettings;
use super::reader::none_answers;
use super::roll::{Key, Roll, Verdict};

/// How much longer one waits than for the answer of a server, so as to hear why there was none.
const SLACK: Duration = Duration::from_millis(250);

/// A registration. Dropped, it is taken back.
pub(super) struct Registration {
    pub(super) roll: Arc<Roll>,
    pub(super) settings: Arc<NameServersSettings>,
    pub(super) key: Key,
    pub(super) number: u64,
}

impl Registration {
    /// Ready when it is lost: no server has confirmed it for its expiry, or one has refused it and no
    /// other has it.
    pub(super) fn lost(
        &self,
        refused: oneshot::Receiver<RegistryError>,
    ) -> BoxFuture<'static, RegistryError> {
        let (roll, key, number) = (Arc::clone(&self.roll), self.key.clone(), self.number);
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            let why = tokio::select! {
                why = lapsed(&roll, &key, number, settings.expiry) => why,
                Ok(why) = refused => why,
            };
            // What comes next is another registration.
            roll.leave(&key, number);
            why.with_registry(&settings.uri)
        })
    }
}

async fn lapsed(roll: &Roll, key: &Key, number: u64, expiry: Duration) -> RegistryError {
    while let Some(due) = roll.due(key, number, expiry) {
        if due <= Instant::now() {
            return RegistryError::unavailable(format!(
                "no name server has confirmed the instance {:?} of {:?} for {expiry:?}",
                key.1, key.0
            ));
        }
        sleep_until(due).await;
    }
    std::future::pending().await
}

impl Session for Registration {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let mut verdicts = self.roll.leave(&self.key, self.number);
            let told = Outcome::of(&mut verdicts, self.settings.timeout).await;
            if told.done == 0 && !told.failures.is_empty() {
                let error = none_answers(&self.settings.uri, told.failures);
                return Err(error.with_hint("the entry goes by itself, with the connection"));
            }
            Ok(())
        })
    }

    fn abandon(&mut self) {
        self.roll.leave(&self.key, self.number);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// What the servers said.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) done: usize,
    pub(super) refused: Option<RegistryError>,
    pub(super) failures: Vec<RegistryError>,
}

impl Outcome {
    /// Waits for all of them, or for the first that refuses, for so long at most.
    pub(super) async fn of(
        verdicts: &mut mpsc::UnboundedReceiver<Verdict>,
        timeout: Duration,
    ) -> Self {
        let until = Instant::now() + timeout + SLACK;
        let mut outcome = Self::default();
        while let Ok(Some(verdict)) = timeout_at(until, verdicts.recv()).await {
            match verdict {
                Verdict::Done => outcome.done = outcome.done.saturating_add(1),
                Verdict::Failed(error) => outcome.failures.push(error),
                Verdict::Refused(error) => {
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
        let (ticket, mut verdicts) = mpsc::unbounded_channel();
        let (first, second) = (ticket.clone(), ticket);
        let outcome = tokio::spawn(async move { Outcome::of(&mut verdicts, TIMEOUT).await });
        let _ = first.send(Verdict::Done);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = second.send(Verdict::Refused(RegistryError::already_exists("taken")));
        let outcome = outcome.await.unwrap();
        assert!(outcome.refused.is_some() && outcome.done == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_waited_for_no_longer_than_the_timeout() {
        let (ticket, mut verdicts) = mpsc::unbounded_channel();
        let _silent = ticket.clone();
        let _ = ticket.send(Verdict::Done);
        let begun = Instant::now();
        let outcome = Outcome::of(&mut verdicts, TIMEOUT).await;
        assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() <= 2 * TIMEOUT);
        assert_eq!((outcome.done, outcome.refused.is_none()), (1, true));
    }
}
