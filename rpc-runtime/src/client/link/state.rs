//! [`Progress`]: the states of a link. No I/O, and time is an argument.

use std::sync::Arc;
use std::time::Instant;

use crate::client::back_off::BackOff;
use crate::client::connection_info::ConnectionState;
use crate::error::RpcError;

/// The state of a link. `C` is a connection, `A` a connection attempt, which is cancelled when
/// dropped.
pub(super) struct Progress<C, A> {
    phase: Phase<C, A>,
    /// Attempts that failed, and connections that did not last, in a row.
    failures: u32,
    /// Connections that take no new calls and have not ended.
    draining: Vec<Arc<C>>,
    /// Number of connections made. At one per millisecond it is exact for 49 days.
    connected: u32,
    last_error: Option<RpcError>,
}

enum Phase<C, A> {
    Idle,
    Connecting(A),
    Ready { connection: Arc<C>, since: Instant },
    BackingOff { until: Instant, error: RpcError },
    Closed(RpcError),
}

/// The state at a point in time, borrowed.
pub(super) enum StateRef<'p, C, A> {
    Ready(&'p Arc<C>),
    /// An attempt is in progress.
    Connecting(&'p A),
    /// An attempt may be made.
    Due,
    BackingOff {
        until: Instant,
        error: &'p RpcError,
    },
    Closed(&'p RpcError),
}

/// The time of an event, and the random fraction for the pause that may follow.
#[derive(Clone, Copy)]
pub(super) struct Moment<'b> {
    pub(super) now: Instant,
    pub(super) back_off: &'b BackOff,
    /// 0 to 1.
    pub(super) fraction: f64,
}

impl<C, A> Progress<C, A> {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            failures: 0,
            draining: Vec::new(),
            connected: 0,
            last_error: None,
        }
    }

    pub(super) fn state_at(&self, now: Instant) -> StateRef<'_, C, A> {
        match &self.phase {
            Phase::Ready { connection, .. } => StateRef::Ready(connection),
            Phase::Connecting(attempt) => StateRef::Connecting(attempt),
            Phase::BackingOff { until, error } if *until > now => {
                StateRef::BackingOff { until: *until, error }
            }
            Phase::Idle | Phase::BackingOff { .. } => StateRef::Due,
            Phase::Closed(why) => StateRef::Closed(why),
        }
    }

    /// Starts an attempt. Only when one is due.
    pub(super) fn begin(&mut self, attempt: A) {
        self.phase = Phase::Connecting(attempt);
    }

    /// The attempt has ended. Returns the outcome for the calls that wait for it. If it is an
    /// error, a connection that was made must not be used.
    pub(super) fn settle(
        &mut self,
        result: Result<Arc<C>, RpcError>,
        moment: Moment<'_>,
    ) -> Result<Arc<C>, RpcError> {
        if let Phase::Closed(why) = &self.phase {
            self.draining.extend(result.ok());
            return Err(why.clone());
        }
        match &result {
            Ok(connection) => {
                self.connected = self.connected.saturating_add(1);
                let connection = Arc::clone(connection);
                self.phase = Phase::Ready { connection, since: moment.now };
            }
            Err(error) => self.failed(error.clone(), moment, 0),
        }
        result
    }

    /// There was a connection before.
    pub(super) fn was_connected(&self) -> bool {
        self.connected > 0
    }

    /// `connection` takes no new calls. `proven`: it has answered a call. Returns whether it was
    /// the one in use.
    pub(super) fn leave(
        &mut self,
        connection: &Arc<C>,
        why: RpcError,
        proven: bool,
        moment: Moment<'_>,
    ) -> bool {
        let since = match &self.phase {
            Phase::Ready { connection: used, since } if Arc::ptr_eq(used, connection) => *since,
            _ => return false,
        };
        self.draining.push(Arc::clone(connection));
        let lasted = moment.now.saturating_duration_since(since);
        if proven || lasted >= moment.back_off.lasting() {
            self.failures = 0;
            self.last_error = Some(why);
            self.phase = Phase::Idle;
        } else {
            self.failed(why, moment, 1);
        }
        true
    }

    /// `connection` has ended.
    pub(super) fn ended(&mut self, connection: &Arc<C>) {
        self.draining.retain(|draining| !Arc::ptr_eq(draining, connection));
    }

    /// Records a failure and starts a pause, which grows with each failure. The first `forgiven`
    /// failures start no pause.
    fn failed(&mut self, error: RpcError, moment: Moment<'_>, forgiven: u32) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error.clone());
        let counted = self.failures.saturating_sub(forgiven);
        let pause = moment.back_off.pause(counted, moment.fraction);
        self.phase = match moment.now.checked_add(pause).filter(|_| counted > 0) {
            Some(until) => Phase::BackingOff { until, error },
            None => Phase::Idle,
        };
    }

    /// There may be a new provider at the address, so failures of the old one do not count.
    pub(super) fn announce(&mut self) {
        self.failures = 0;
        if let Phase::BackingOff { .. } = self.phase {
            self.phase = Phase::Idle;
        }
    }

    /// No new calls and no more attempts. An attempt in progress is cancelled, and a connection in
    /// use must be drained by the caller.
    pub(super) fn close(&mut self, why: RpcError) -> Option<Arc<C>> {
        if let Phase::Closed(_) = self.phase {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Closed(why)) {
            Phase::Ready { connection, .. } => {
                self.draining.push(Arc::clone(&connection));
                Some(connection)
            }
            _ => None,
        }
    }

    pub(super) fn state(&self) -> ConnectionState {
        match self.phase {
            Phase::Connecting(_) => ConnectionState::Connecting,
            Phase::Ready { .. } => ConnectionState::Ready,
            Phase::BackingOff { .. } => ConnectionState::BackingOff,
            Phase::Idle | Phase::Closed(_) if !self.draining.is_empty() => {
                ConnectionState::Draining
            }
            Phase::Idle => ConnectionState::Idle,
            Phase::Closed(_) => ConnectionState::Closed,
        }
    }

    /// There is no connection, and the last attempt failed or the last connection did not last.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0 && !matches!(self.phase, Phase::Ready { .. })
    }

    /// When the pause ends, if there is one.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(super) fn draining(&self) -> &[Arc<C>] {
        &self.draining
    }

    /// Connections that were made after the first.
    pub(super) fn reconnects(&self) -> u64 {
        u64::from(self.connected.saturating_sub(1))
    }

    pub(super) fn last_error(&self) -> Option<&RpcError> {
        self.last_error.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    type Link = Progress<u32, u32>;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn why(text: &str) -> RpcError {
        RpcError::unavailable(text)
    }

    /// A link at a time that goes by, without jitter.
    struct Bench {
        link: Link,
        now: Instant,
        back_off: BackOff,
    }

    impl Bench {
        fn new() -> Self {
            let back_off = BackOff::default().jitter(0.0);
            Self { link: Progress::new(), now: Instant::now(), back_off }
        }

        fn is_due(&self) -> bool {
            matches!(self.link.state_at(self.now), StateRef::Due)
        }

        fn connect(&mut self, number: u32) -> Arc<u32> {
            assert!(self.is_due());
            self.link.begin(number);
            let moment = Moment { now: self.now, back_off: &self.back_off, fraction: 0.5 };
            self.link.settle(Ok(Arc::new(number)), moment).unwrap()
        }

        fn fail(&mut self) {
            assert!(self.is_due());
            self.link.begin(0);
            let moment = Moment { now: self.now, back_off: &self.back_off, fraction: 0.5 };
            self.link.settle(Err(why("refused")), moment).unwrap_err();
        }

        fn leave(&mut self, connection: &Arc<u32>) -> bool {
            let moment = Moment { now: self.now, back_off: &self.back_off, fraction: 0.5 };
            self.link.leave(connection, why("lost"), false, moment)
        }

        /// How long until an attempt is due.
        fn pause(&mut self) -> Duration {
            let until = self.link.until().unwrap_or(self.now);
            let pause = until - self.now;
            self.now = until;
            pause
        }
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_pause() {
        let mut bench = Bench::new();
        for pause in [100, 200, 400, 800] {
            bench.fail();
            assert!(!bench.is_due());
            assert_eq!(bench.pause(), MS(pause));
        }
    }

    #[test]
    fn a_connection_that_lasted_ends_the_row() {
        let mut bench = Bench::new();
        bench.fail();
        bench.pause();
        bench.fail();
        bench.pause();
        let connection = bench.connect(1);
        bench.now += MS(100);
        bench.leave(&connection);
        assert!(bench.is_due(), "the next call connects at once");
        bench.fail();
        assert_eq!(bench.pause(), MS(100));
    }

    #[test]
    fn a_connection_that_was_of_use_ends_the_row_however_short_it_was() {
        let mut bench = Bench::new();
        for number in 0..5 {
            bench.fail();
            assert_eq!(bench.pause(), MS(100));
            let connection = bench.connect(number);
            let moment = Moment { now: bench.now, back_off: &bench.back_off, fraction: 0.5 };
            assert!(bench.link.leave(&connection, why("lost"), true, moment));
        }
    }

    #[test]
    fn a_provider_that_greets_and_dies_over_and_over_is_left_alone_for_longer_each_time() {
        let mut bench = Bench::new();
        let pauses: Vec<_> = (0..5)
            .map(|number| {
                let connection = bench.connect(number);
                bench.now += MS(99);
                bench.leave(&connection);
                bench.pause()
            })
            .collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800].map(MS));
    }

    #[test]
    fn what_was_known_of_an_old_provider_does_not_count_for_one_that_is_announced() {
        let mut bench = Bench::new();
        bench.fail();
        bench.pause();
        bench.fail();
        bench.link.announce();
        assert!(bench.is_due());
        bench.fail();
        assert_eq!(bench.pause(), MS(100));
    }

    #[test]
    fn a_connection_that_drains_is_seen_until_it_has_ended() {
        let mut bench = Bench::new();
        let connection = bench.connect(1);
        bench.now += MS(1_000);
        assert!(bench.leave(&connection));
        assert_eq!(bench.link.state(), ConnectionState::Draining);
        let next = bench.connect(2);
        assert_eq!(bench.link.state(), ConnectionState::Ready);
        assert!(!bench.leave(&connection), "it is not the one in use any more");
        bench.link.close(why("closed"));
        bench.link.ended(&next);
        assert_eq!(bench.link.state(), ConnectionState::Draining);
        bench.link.ended(&connection);
        assert_eq!(bench.link.state(), ConnectionState::Closed);
    }

    #[test]
    fn an_attempt_that_succeeds_after_the_close_is_not_handed_out() {
        let mut bench = Bench::new();
        bench.link.begin(1);
        assert!(bench.link.close(why("closed")).is_none());
        let moment = Moment { now: bench.now, back_off: &bench.back_off, fraction: 0.5 };
        let told = bench.link.settle(Ok(Arc::new(1)), moment);
        assert_eq!(told.unwrap_err().message(), "closed");
        assert!(matches!(bench.link.state_at(bench.now), StateRef::Closed(_)));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Wait(u64),
        /// An attempt is made if one is due, and succeeds or fails.
        Attempt(bool),
        /// The connection in use takes no more calls.
        Leave,
        /// The oldest that drains ends.
        End,
        Announce,
        Close,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0_u64..40_000).prop_map(Event::Wait),
            4 => any::<bool>().prop_map(Event::Attempt),
            3 => Just(Event::Leave),
            2 => Just(Event::End),
            1 => Just(Event::Announce),
            1 => Just(Event::Close),
        ]
    }

    proptest! {
        /// Against a model that knows only which connections there are.
        #[test]
        fn no_order_of_events_hands_out_a_connection_that_was_left_or_tries_a_closed_address(
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut bench = Bench::new();
            let (mut used, mut draining) = (None::<Arc<u32>>, Vec::new());
            let (mut closed, mut made) = (false, 0_u32);
            for event in events {
                match event {
                    Event::Wait(ms) => bench.now += MS(ms),
                    Event::Attempt(true) if bench.is_due() => {
                        made += 1;
                        used = Some(bench.connect(made));
                    }
                    Event::Attempt(false) if bench.is_due() => bench.fail(),
                    Event::Attempt(_) => {}
                    Event::Leave => if let Some(connection) = used.take() {
                        prop_assert!(bench.leave(&connection));
                        draining.push(connection);
                    },
                    Event::End => if !draining.is_empty() {
                        bench.link.ended(&draining.remove(0));
                    },
                    Event::Announce => bench.link.announce(),
                    Event::Close => {
                        closed = true;
                        prop_assert_eq!(bench.link.close(why("closed")), used.clone());
                        draining.extend(used.take());
                    }
                }
                let found = match bench.link.state_at(bench.now) {
                    StateRef::Ready(connection) => Some(Arc::clone(connection)),
                    _ => None,
                };
                prop_assert_eq!(&found, &used);
                prop_assert_eq!(bench.link.draining(), &draining[..]);
                prop_assert_eq!(matches!(bench.link.state_at(bench.now), StateRef::Closed(_)), closed);
                prop_assert_eq!(bench.link.reconnects(), u64::from(made.saturating_sub(1)));
                let state = bench.link.state();
                prop_assert_eq!(state == ConnectionState::Ready, used.is_some());
                prop_assert_eq!(state == ConnectionState::Closed, closed && draining.is_empty());
                if let Some(until) = bench.link.until() {
                    prop_assert!(until <= bench.now + Duration::from_secs(30));
                }
            }
        }
    }
}
