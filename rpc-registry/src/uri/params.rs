//! Parameters of a [`RegistryUri`]: numbers, durations and unknown names.

use std::ops::RangeInclusive;
use std::time::Duration;

use humantime::{format_duration, parse_duration};

use super::RegistryUri;
use crate::RegistryError;
use crate::suggest::nearest;

/// Parameters of earlier versions: the old name, the new name, and the unit of the old value.
const RENAMED: [(&str, &str, Duration); 10] = [
    ("ttl", "lease", SECOND),
    ("ttl_ms", "lease", MILLISECOND),
    ("session_timeout_ms", "lease", MILLISECOND),
    ("expiry_ms", "lease", MILLISECOND),
    ("connect_timeout_ms", "request_timeout", MILLISECOND),
    ("timeout_ms", "request_timeout", MILLISECOND),
    ("lock_timeout_ms", "lock_timeout", MILLISECOND),
    ("watch_interval_ms", "poll_interval", MILLISECOND),
    ("interval_ms", "renew_interval", MILLISECOND),
    ("protect_ms", "protect", MILLISECOND),
];
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

impl RegistryUri {
    /// The value of a parameter that is a whole number, or `default` if it is missing.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` if it is not a number or outside of `range`.
    pub fn number(
        &self,
        name: &str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, RegistryError> {
        let Some(value) = self.param(name) else { return Ok(default) };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(self.wrong(format!(
                "the parameter {name}={value:?} is not a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// The value of a parameter that is a duration with a unit, such as `500ms`, `10s`, `5m` or
    /// `1h30m`; `default` if it is missing.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` if it is not a duration or outside of `range`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use rpc_registry::RegistryUri;
    /// const SECOND: Duration = Duration::from_secs(1);
    /// let uri = RegistryUri::parse("mine://10.0.0.1?lease=90s")?;
    /// assert_eq!(uri.duration("lease", 10 * SECOND, SECOND..=600 * SECOND)?, 90 * SECOND);
    /// # Ok::<(), rpc_registry::RegistryError>(())
    /// ```
    pub fn duration(
        &self,
        name: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, RegistryError> {
        let Some(value) = self.param(name) else { return Ok(default) };
        match parse_duration(value) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            _ => Err(self
                .wrong(format!(
                    "the parameter {name}={value:?} is not a duration from {} to {}",
                    format_duration(*range.start()),
                    format_duration(*range.end())
                ))
                .with_hint(format!("write it like {name}={}", format_duration(default)))),
        }
    }

    /// Refuses parameters that the back end does not know, so that a misspelt one is noticed.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri`. The hint names the new name of a renamed parameter, the nearest of the
    /// `known` ones, or all of them.
    pub fn expect_params(&self, known: &[&str]) -> Result<(), RegistryError> {
        let unknown = self.params.iter().find(|(name, _)| !known.contains(&name.as_str()));
        let Some((name, value)) = unknown else { return Ok(()) };
        let hint = match (renamed(name, value, known), nearest(name, known), known) {
            (Some(renamed), ..) => renamed,
            (None, Some(near), _) => format!("did you mean {near:?}?"),
            (None, None, []) => format!("{}: takes no parameters", self.scheme),
            (None, None, known) => format!("{}: knows {}", self.scheme, known.join(", ")),
        };
        Err(self.wrong(format!("unknown parameter {name:?}")).with_hint(hint))
    }
}

/// How to write a parameter of an earlier version now.
fn renamed(name: &str, value: &str, known: &[&str]) -> Option<String> {
    let (_, new, unit) =
        RENAMED.iter().find(|(old, new, _)| *old == name && known.contains(new))?;
    let value = value.parse().ok().and_then(|count| unit.checked_mul(count));
    Some(match value {
        Some(value) => {
            let value = format_duration(value).to_string().replace(' ', "");
            format!("it is called {new:?} now: write {new}={value}")
        }
        None => format!("it is called {new:?} now, and its value has a unit, as in 10s"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RegistryUri {
        RegistryUri::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_checked() {
        let uri = parse("file:/x?n=7&bad=7s&big=99999999999999999999");
        assert_eq!(uri.number("n", 1, 0..=10).unwrap(), 7);
        assert_eq!(uri.number("m", 1, 0..=10).unwrap(), 1);
        for (name, range) in [("n", 8..=10), ("bad", 0..=10), ("big", 0..=u64::MAX)] {
            assert!(uri.number(name, 1, range).unwrap_err().is_invalid_uri());
        }
    }

    #[test]
    fn durations_have_a_unit_and_are_checked() {
        let uri = parse("file:/x?a=1500ms&b=1h30m&c=2days&bare=10&long=3s&odd=-1s&big=9e99s");
        let of = |name| uri.duration(name, SECOND, SECOND..=200_000 * SECOND);
        assert_eq!(of("a").unwrap(), Duration::from_millis(1500));
        assert_eq!(of("b").unwrap(), 5400 * SECOND);
        assert_eq!(of("c").unwrap(), 172_800 * SECOND);
        assert_eq!(of("missing").unwrap(), SECOND);
        for bad in ["bare", "odd", "big"] {
            let error = of(bad).unwrap_err();
            assert!(error.is_invalid_uri(), "{bad}");
            assert!(error.to_string().contains("write it like"), "{error}");
        }
        let error = uri.duration("long", SECOND, SECOND..=2 * SECOND).unwrap_err().to_string();
        assert!(
            error.contains("is not a duration from 1s to 2s; write it like long=1s"),
            "{error}"
        );
    }

    #[test]
    fn a_misspelt_parameter_is_not_ignored() {
        let uri = parse("file:/x?lock_timout=7s");
        assert!(uri.expect_params(&["lock_timout"]).is_ok());
        let error = uri.expect_params(&["lock_timeout", "other"]).unwrap_err();
        assert!(error.to_string().contains("did you mean \"lock_timeout\""), "{error}");
    }

    #[test]
    fn the_error_about_a_parameter_of_an_earlier_version_says_how_to_write_it_now() {
        for (old, new) in [
            ("ttl=10", "write lease=10s"),
            ("ttl_ms=90500", "write lease=1m30s500ms"),
            ("session_timeout_ms=4000", "write lease=4s"),
            ("expiry_ms=120000", "write lease=2m"),
            ("connect_timeout_ms=3000", "write request_timeout=3s"),
            ("protect_ms=300000", "write protect=5m"),
            ("interval_ms=x", "\"renew_interval\" now, and its value has a unit"),
        ] {
            let known = ["lease", "request_timeout", "renew_interval", "protect"];
            let error = parse(&format!("x://h?{old}")).expect_params(&known).unwrap_err();
            assert!(error.is_invalid_uri());
            assert!(error.to_string().contains(new), "{error} does not say {new:?}");
        }
        let error = parse("x://h?ttl=10").expect_params(&["other"]).unwrap_err().to_string();
        assert!(!error.contains("lease"), "{error}");
    }
}
