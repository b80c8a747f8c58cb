//! [`FlushDuty`]: who sees to it that the output leaves.

use std::time::Instant;

/// Who writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writing {
    #[default]
    Nobody,
    /// A flush, which looks again before it stops.
    Flush,
    /// The driver, which has what the operating system did not take.
    Driver,
}

/// Who sees to it that the output leaves. Bytes that are left to nobody would be calls that hang,
/// so [`is_seen_to`](Self::is_seen_to) holds whenever the lock is released.
///
/// It does not see the output; `has_output` says whether there is any.
#[derive(Debug, Default)]
pub(in crate::connection) struct FlushDuty {
    /// Somebody has promised to flush.
    promised: bool,
    /// When the driver looks whether the promise was kept. One look serves all the promises of that
    /// time: it costs a busy channel next to nothing, and an idle one nothing.
    due: Option<Instant>,
    writing: Writing,
}

impl FlushDuty {
    /// Takes on the duty to flush, unless somebody has it.
    #[inline]
    pub(in crate::connection) fn claim(&mut self) -> bool {
        !std::mem::replace(&mut self.promised, true)
    }

    /// The promise is kept later: the driver looks after it at this time.
    pub(in crate::connection) fn look_at(&mut self, due: Instant) {
        self.due.get_or_insert(due);
    }

    /// When the driver looks after promises.
    #[inline]
    pub(in crate::connection) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A promise is kept. Returns whether there is something to be written, by who asks.
    #[inline]
    pub(in crate::connection) fn begin(&mut self, has_output: bool) -> bool {
        self.promised = false;
        let begins = has_output && !self.is_writing();
        if begins {
            self.writing = Writing::Flush;
        }
        begins
    }

    /// All that was taken out is written. Returns whether to go on. With a promise outstanding, what
    /// has gathered since leaves when that is kept.
    #[inline]
    pub(in crate::connection) fn go_on(&mut self, has_output: bool) -> bool {
        let goes_on = has_output && (!self.promised || self.writing == Writing::Driver);
        if !goes_on {
            self.writing = Writing::Nobody;
        }
        goes_on
    }

    /// The operating system takes no more: the driver writes the rest.
    pub(in crate::connection) fn leave_to_driver(&mut self) {
        self.writing = Writing::Driver;
    }

    #[inline]
    pub(in crate::connection) fn is_writing(&self) -> bool {
        self.writing != Writing::Nobody
    }

    /// Somebody has promised to flush.
    #[inline]
    pub(in crate::connection) fn is_promised(&self) -> bool {
        self.promised
    }

    /// Nothing is left to be written, nor will be by somebody who promised.
    #[inline]
    pub(in crate::connection) fn is_done(&self, has_output: bool) -> bool {
        !has_output && !self.is_writing() && !self.promised
    }

    /// The driver's look. Returns whether it is to flush: nobody has promised to, or somebody has,
    /// long ago. Who writes may leave what has gathered to the promise, so that is looked at again.
    pub(in crate::connection) fn look(
        &mut self,
        has_output: bool,
        now: Instant,
        again: Instant,
    ) -> bool {
        let broken = self.due.take_if(|due| *due <= now).is_some() && self.promised;
        if broken && self.is_writing() {
            self.due = Some(again);
        }
        has_output && !self.is_writing() && (!self.promised || broken)
    }

    /// The invariant: while there is output, somebody has promised to flush, or writes.
    #[cfg(any(test, debug_assertions))]
    pub(in crate::connection) fn is_seen_to(&self, has_output: bool) -> bool {
        !has_output || self.promised || self.is_writing()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GRACE: Duration = Duration::from_millis(20);

    #[test]
    fn what_gathers_while_another_writes_is_left_to_the_promise_or_to_the_writer() {
        let mut duty = FlushDuty::default();
        assert!(duty.claim() && !duty.claim(), "one promise is enough");
        assert!(duty.begin(true));
        assert!(duty.go_on(true), "nobody has promised");
        assert!(duty.claim());
        assert!(!duty.go_on(true), "somebody has");
        assert!(duty.is_seen_to(true) && !duty.is_done(false));
        assert!(duty.begin(true));
        assert!(!duty.go_on(false));
        assert!(duty.is_done(false));
    }

    #[test]
    fn the_driver_writes_on_though_somebody_has_promised_to() {
        let mut duty = FlushDuty::default();
        assert!(duty.claim() && duty.begin(true));
        duty.leave_to_driver();
        assert!(duty.claim());
        assert!(duty.go_on(true), "there is no room for anybody else");
        assert!(!duty.begin(true), "the promise is kept by the driver");
        assert!(!duty.go_on(false) && duty.is_done(false));
    }

    #[test]
    fn a_promise_that_is_not_kept_in_time_is_kept_by_the_driver() {
        let mut duty = FlushDuty::default();
        let now = Instant::now();
        assert!(duty.claim());
        duty.look_at(now + GRACE);
        duty.look_at(now + GRACE * 2);
        assert_eq!(duty.due(), Some(now + GRACE), "the first counts");
        assert!(!duty.look(true, now, now + GRACE));
        assert!(duty.look(true, now + GRACE, now + GRACE * 2));
        assert_eq!(duty.due(), None);
        // While another writes it is looked at again.
        assert!(duty.begin(true));
        assert!(duty.claim());
        duty.look_at(now + GRACE);
        assert!(!duty.look(true, now + GRACE, now + GRACE * 2));
        assert_eq!(duty.due(), Some(now + GRACE * 2));
    }

    #[test]
    fn output_of_which_nobody_knows_is_flushed_by_the_driver() {
        let mut duty = FlushDuty::default();
        let now = Instant::now();
        assert!(!duty.is_seen_to(true));
        assert!(duty.look(true, now, now));
        assert!(!duty.look(false, now, now));
    }
}
