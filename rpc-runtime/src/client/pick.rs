//! [`Pick`]: the connection for one attempt of a call, and the observer of its outcome.

use std::sync::Arc;

use crate::connection::Channel;

/// A connection for one attempt of a call.
///
/// Exactly one outcome is reported: by [`answered`](Self::answered),
/// [`failed`](Self::failed) or [`not_open`](Self::not_open), or as cancelled when the pick is
/// dropped.
#[must_use]
pub(crate) struct Pick {
    channel: Arc<Channel>,
    /// A field that implements `Drop`, so that the pick itself can be destructured.
    report: Report,
}

/// The outcome of an attempt.
#[derive(Clone, Copy)]
pub(crate) enum Outcome<'c> {
    /// The provider has answered.
    Answered,
    /// There was no answer: the deadline passed, the connection ended, or the request could not be
    /// sent there.
    Failed,
    /// Nothing was sent, since this connection takes no new calls.
    NotOpen(&'c Arc<Channel>),
    /// The call was dropped, or nothing was tried.
    Cancelled,
}

/// Gets the outcomes of the attempts on a connection. Must not block.
pub(crate) trait OutcomeObserver: Send + Sync {
    fn ended(&self, outcome: Outcome<'_>);
}

/// `None` once it was reported.
struct Report(Option<Arc<dyn OutcomeObserver>>);

impl Report {
    #[inline]
    fn make(&mut self, outcome: Outcome<'_>) {
        if let Some(outcomes) = self.0.take() {
            outcomes.ended(outcome);
        }
    }
}

impl Drop for Report {
    #[inline]
    fn drop(&mut self) {
        self.make(Outcome::Cancelled);
    }
}

impl Pick {
    #[inline]
    pub(crate) fn new(channel: Arc<Channel>, outcomes: Arc<dyn OutcomeObserver>) -> Self {
        Self { channel, report: Report(Some(outcomes)) }
    }

    #[inline]
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// The provider has answered. Returns the connection, as the other methods do.
    #[inline]
    pub(crate) fn answered(mut self) -> Arc<Channel> {
        self.report.make(Outcome::Answered);
        self.channel
    }

    /// There was no answer.
    pub(crate) fn failed(mut self) -> Arc<Channel> {
        self.report.make(Outcome::Failed);
        self.channel
    }

    /// The connection takes no new calls.
    pub(crate) fn not_open(mut self) -> Arc<Channel> {
        self.report.make(Outcome::NotOpen(&self.channel));
        self.channel
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::connection::ChannelSettings;
    use crate::protocol::Hello;
    use crate::transport::raw::pair;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl OutcomeObserver for Log {
        fn ended(&self, outcome: Outcome<'_>) {
            self.0.lock().unwrap().push(match outcome {
                Outcome::Answered => "answered".to_owned(),
                Outcome::Failed => "failed".to_owned(),
                Outcome::NotOpen(channel) => format!("not open {}", channel.peer()),
                Outcome::Cancelled => "cancelled".to_owned(),
            });
        }
    }

    #[tokio::test]
    async fn what_becomes_of_an_attempt_is_reported_once() {
        let (transport, _raw) = pair().await;
        let opened = Channel::new(transport, ChannelSettings::default(), &Hello::default(), None);
        let (channel, _) = opened.unwrap();
        let log = Arc::new(Log::default());
        let pick = || Pick::new(Arc::clone(&channel), Arc::clone(&log) as Arc<dyn OutcomeObserver>);
        drop(pick().answered());
        drop(pick().failed());
        drop(pick().not_open());
        drop(pick());
        let not_open = format!("not open {}", channel.peer());
        let expected = ["answered", "failed", &not_open, "cancelled"];
        assert_eq!(*log.0.lock().unwrap(), expected);
    }
}
