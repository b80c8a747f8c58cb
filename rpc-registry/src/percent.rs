//! Percent-encoding, of URIs and of names in the paths of registries.

/// Percent-encodes everything but the unreserved characters of RFC 3986, so that a slash only ever
/// separates names.
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => encoded.push(char::from(b)),
            b => encoded.push_str(&format!("%{b:02X}")),
        }
    }
    encoded
}

/// Decodes percent-encoding. The error is the reason why it is invalid.
pub(crate) fn decode(part: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            decoded.push(first);
            continue;
        }
        match tail {
            [high, low, tail @ ..] => {
                let byte = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low);
                decoded.push(byte.ok_or_else(bad_escape)?);
                rest = tail;
            }
            _ => return Err(bad_escape()),
        }
    }
    match String::from_utf8(decoded) {
        Ok(text) if text.contains('\0') => Err("it contains %00".to_owned()),
        Ok(text) => Ok(text),
        Err(_) => Err("its percent-encoded bytes are not UTF-8".to_owned()),
    }
}

fn bad_escape() -> String {
    "a % is not followed by two hexadecimal digits (a literal % is written %25)".to_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "etcd", feature = "zookeeper"))]
    #[test]
    fn every_name_is_one_part_of_a_path_and_comes_back() {
        for name in ["a", "com.shop.Orders", "a/b", "a%2Fb", "\u{e4}", "a b", "~_-", "%", "?#"] {
            let encoded = encode(name);
            assert!(!encoded.contains(['/', ' ', '?', '#']) && encoded.is_ascii(), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Ok(name));
        }
    }

    #[test]
    fn what_is_wrongly_encoded_is_refused() {
        for bad in ["%", "%4", "a%zz", "%ff", "%00"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
