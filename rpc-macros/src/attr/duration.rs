/// The longest timeout that a contract can ask for.
const MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Reads `200ms`, `3s` or `2m` as milliseconds; the error says what to write instead.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    if digits.is_empty() {
        return Err(format!("`{text}` is no duration: write for example `200ms`, `3s` or `2m`"));
    }
    let ms_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "" => return Err(format!("`{text}` has no unit: write `{text}ms` or `{text}s`")),
        "us" | "µs" | "ns" => {
            return Err(format!(
                "a timeout in `{unit}` is finer than the runtime's clock: the least is `1ms`"
            ));
        }
        _ if unit.starts_with('.') => {
            return Err(format!(
                "`{text}` has a fraction: take the next smaller unit, `1500ms` for one and a half seconds"
            ));
        }
        _ => return Err(format!("`{unit}` is no unit of a timeout: use `ms`, `s` or `m`")),
    };
    // Only too many digits can fail here, so it is the upper limit that is broken.
    let ms = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(ms_per_unit));
    match ms {
        Some(0) => Err("a timeout of zero can never be met".to_owned()),
        Some(ms) if ms <= MAX_MS => Ok(ms),
        _ => Err(format!("`{text}` is longer than the longest timeout, 24 hours")),
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
            ("", "is no duration"),
            ("ms", "is no duration"),
            ("-1s", "is no duration"),
            ("200", "write `200ms` or `200s`"),
            ("10us", "finer than the runtime's clock"),
            ("1.5s", "`1500ms`"),
            ("1h", "use `ms`, `s` or `m`"),
            ("1 s", "is no unit"),
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
