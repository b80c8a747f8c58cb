//! [`BackOff`].

use std::time::Duration;

use crate::error::RpcError;

/// Longest pause that can be asked for, before jitter.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest factor.
const MAX_FACTOR: f64 = 100.0;
/// Largest jitter. With all of it the pause could be nothing at all.
const MAX_JITTER: f64 = 0.9;

/// The pause of a [`Client`](crate::Client) after a failed attempt to connect to an address. The
/// pause grows with each consecutive failure up to a maximum. Part of it is random, so that clients
/// do not all reconnect at the same time.
///
/// The rule is that of gRPC's [connection back-off]; its numbers are 1 s, 1.6, 120 s and ±20 %.
///
/// The failure count is reset by a connection that answers a call or lasts as long as the first
/// pause. A connection that ends earlier counts as a failure, except the first one: its provider may
/// have been shutting down, so the next call connects at once. As a result, a provider that accepts
/// connections and fails repeatedly gets the same pauses as an unreachable one.
///
/// A new registration of the address also resets the failure count and ends the pause.
///
/// Invalid settings are an error when the client is built.
///
/// ```
/// use std::time::Duration;
///
/// use rpc_runtime::{BackOff, Client};
///
/// let patient = BackOff::default().first(Duration::from_secs(1)).longest(Duration::from_secs(60));
/// let client = Client::builder().back_off(patient);
/// ```
///
/// [connection back-off]: https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    factor: f64,
    jitter: f64,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            factor: 2.0,
            jitter: 0.5,
        }
    }
}

impl BackOff {
    /// The pause after the first failure. Default 100 ms; at least 1 ms.
    pub fn first(mut self, pause: Duration) -> Self {
        self.first = pause;
        self
    }

    /// The longest pause, jitter not counted. Default 30 s; at least the first, at most a day.
    pub fn longest(mut self, pause: Duration) -> Self {
        self.longest = pause;
        self
    }

    /// The factor between consecutive pauses. Default 2; 1 to 100.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The random fraction of a pause. With the default 0.5, a pause is 50 % to 150 % of its nominal
    /// value. 0 to 0.9.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// How long a connection must last for the failures before it to be forgotten.
    pub(super) fn lasting(&self) -> Duration {
        self.first
    }

    /// # Errors
    /// A setting makes no sense.
    pub(super) fn check(&self) -> Result<(), RpcError> {
        let Self { first, longest, factor, jitter } = *self;
        let refused = |why: String| Err(RpcError::invalid(format!("back-off: {why}")));
        if first < Duration::from_millis(1) {
            return refused(format!("the first pause is {first:?}, and must be 1 ms at least"));
        }
        if longest < first {
            let why = "a pause must not be longer than the longest";
            return refused(format!(
                "the first pause is {first:?}, the longest {longest:?}; {why}"
            ));
        }
        if longest > A_DAY {
            return refused(format!("the longest pause is {longest:?}, over a day"));
        }
        if !(1.0..=MAX_FACTOR).contains(&factor) {
            return refused(format!("the factor is {factor}, and must be 1 to {MAX_FACTOR}"));
        }
        if !(0.0..=MAX_JITTER).contains(&jitter) {
            return refused(format!("the jitter is {jitter}, and must be 0 to {MAX_JITTER}"));
        }
        Ok(())
    }

    /// The pause after so many failures in a row. `fraction`, 0 to 1, chooses within the jitter.
    pub(super) fn pause(&self, failures: u32, fraction: f64) -> Duration {
        let steps = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.factor.powi(steps);
        let nominal = grown.min(self.longest.as_secs_f64());
        let jitter = self.jitter * (2.0 * fraction - 1.0);
        Duration::try_from_secs_f64(nominal * (1.0 + jitter)).unwrap_or(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn pauses_double_from_100_ms_to_30_s() {
        let pauses: Vec<_> =
            (1..=11).map(|failures| BackOff::default().pause(failures, 0.5)).collect();
        let doubled = [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(pauses, doubled.map(MS));
    }

    #[test]
    fn jitter_is_half_of_the_pause_each_way_by_default() {
        let back_off = BackOff::default();
        assert_eq!((back_off.pause(2, 0.0), back_off.pause(2, 1.0)), (MS(100), MS(300)));
        assert_eq!(back_off.jitter(0.0).pause(2, 0.9), MS(200));
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let default = BackOff::default();
        for (back_off, named) in [
            (default.first(Duration::ZERO), "the first pause is 0ns"),
            (default.first(MS(60_000)), "the first pause is 60s, the longest 30s"),
            (default.longest(Duration::MAX), "over a day"),
            (default.factor(0.5), "the factor is 0.5"),
            (default.factor(f64::NAN), "the factor is NaN"),
            (default.factor(f64::INFINITY), "the factor is inf"),
            (default.jitter(-0.1), "the jitter is -0.1"),
            (default.jitter(1.0), "the jitter is 1"),
            (default.jitter(f64::NAN), "the jitter is NaN"),
        ] {
            let error = back_off.check().unwrap_err();
            assert!(error.is_invalid() && error.to_string().contains(named), "{error}");
        }
        default.check().unwrap();
    }

    proptest! {
        #[test]
        fn a_pause_is_within_its_jitter_whatever_the_settings(
            first in 1_u64..100_000,
            more in 0_u64..80_000_000,
            factor in 1.0..100.0_f64,
            jitter in 0.0..0.9_f64,
            failures: u32,
            fraction in 0.0..1.0_f64,
        ) {
            let back_off = BackOff::default().first(MS(first)).longest(MS(first + more));
            let back_off = back_off.factor(factor).jitter(jitter);
            prop_assume!(back_off.check().is_ok());
            let pause = back_off.pause(failures, fraction).as_secs_f64();
            let shortest = MS(first).as_secs_f64() * (1.0 - jitter);
            let longest = MS(first + more).as_secs_f64() * (1.0 + jitter);
            let rounding = 1e-6;
            prop_assert!(pause >= shortest - rounding && pause <= longest + rounding, "{pause}");
        }
    }
}
