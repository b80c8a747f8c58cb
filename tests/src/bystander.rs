//! A well-behaved client next to whatever else goes on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::probe::{Probe, ProbeClient};
use crate::waiting::soon;

/// Makes calls all along and fails the test at the first that goes wrong.
#[derive(Debug)]
pub struct Bystander {
    stop: watch::Sender<bool>,
    calls: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Bystander {
    /// Begins to call the provider at `uri`.
    pub async fn start(uri: &str) -> Self {
        let probe = ProbeClient::connect(uri).await.unwrap().with_timeout(Duration::from_secs(5));
        let (stop, stopped) = watch::channel(false);
        let (count, calls) = watch::channel(0);
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                let n = i64::try_from(*count.borrow()).unwrap();
                let (sum, text) =
                    tokio::join!(probe.add(n, 1), probe.echo(format!("bystander {n}")));
                assert_eq!(sum.unwrap(), n + 1);
                assert_eq!(text.unwrap(), format!("bystander {n}"));
                count.send_modify(|count| *count += 1);
                // Leaves the processors to the others.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { stop, calls, task }
    }

    /// Waits until it was answered `more` times from now on.
    pub async fn answered(&mut self, more: u64) {
        let goal = *self.calls.borrow() + more;
        let answered = soon("the bystander's calls", self.calls.wait_for(|n| *n >= goal)).await;
        assert!(answered.is_ok(), "the bystander's call failed");
    }

    /// Ends it, after it was answered once more.
    pub async fn finish(mut self) {
        self.answered(2).await;
        self.stop.send_replace(true);
        soon("the bystander's end", self.task).await.unwrap();
    }
}
