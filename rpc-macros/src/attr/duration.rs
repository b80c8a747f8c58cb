/// Maximum timeout of a contract.
const MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Parses `200ms`, `3s` or `2m` to milliseconds. The error says what to write instead.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    if digits.is_empty() {
        return Err(format!("`{text}` is not a duration: write for example `200ms`, `3s` or `2m`"));
    }
    let ms_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "" => return Err(format!("`{text}` has no unit: write `{text}ms` or `{text}s`")),
        "us" | "µs" | "ns" => {
            return Err(format!(
                "a timeout in `{unit}` is finer than the runtime's clock: the minimum is `1ms`"
            ));
        }
        _ if unit.starts_with('.') => {
            return Err(format!(
                "`{text}` has a fraction: use a smaller unit, such as `1500ms` for one and a half seconds"
            ));
        }
        _ => return Err(format!("`{unit}` is not a unit of a timeout: use `ms`, `s` or `m`")),
    };
    // Parsing fails only for too large numbers.
    let ms = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(ms_per_unit));
    match ms {
        Some(0) => Err("a timeout of zero can never be met".to_owned()),
        Some(ms) if ms <= MAX_MS => Ok(ms),
        _ => Err(format!("`{text}` exceeds the maximum timeout of 24 hours")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_ms;

    #[test]
    fn each_unit_is_read_as_milliseconds() {
        assert_eq!(parse_ms("200ms"), Ok(200));
        assert_eq!(parse_ms("3s"), Ok(3_000));
        assert_eq!(parse_ms("2m"), Ok(120_000));
        assert_eq!(parse_ms("1440m"), Ok(86_400_000));
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, part) in [
            ("", "is not a duration"),
            ("ms", "is not a duration"),
            ("-1s", "is not a duration"),
            ("200", "write `200ms` or `200s`"),
            ("10us", "finer than the runtime's clock"),
            ("1.5s", "`1500ms`"),
            ("1h", "use `ms`, `s` or `m`"),
            ("1 s", "is not a unit"),
            ("0s", "zero"),
            ("1441m", "24 hours"),
            ("99999999999999999999ms", "24 hours"),
            ("18446744073709551615m", "24 hours"),
        ] {
            let error = parse_ms(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
