//! What rmp-serde reads is read, with the same result, and what it refuses is refused.

use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::super::{DecodeLimits, decode};
use super::zoo::{Random, Sparse, Zoo};
use crate::protocol::payload::{Arguments, Defaulted};

/// Both decoders read the same value, or both refuse it.
fn same<T: DeserializeOwned + Debug>(bytes: &[u8]) -> Result<T, String> {
    let theirs = rmp_serde::from_slice::<T>(bytes);
    let ours = decode::<T>(bytes, DecodeLimits::new());
    match (&ours, &theirs) {
        // As texts, since no NaN equals itself.
        (Ok(ours), Ok(theirs)) => assert_eq!(format!("{ours:?}"), format!("{theirs:?}")),
        (Err(_), Err(_)) => {}
        _ => panic!("{ours:?}, but {theirs:?}, of {bytes:02x?}"),
    }
    ours.map_err(|error| error.to_string())
}

fn encoded<T: Serialize>(value: &T, named: bool) -> Vec<u8> {
    if named { rmp_serde::to_vec_named(value).unwrap() } else { rmp_serde::to_vec(value).unwrap() }
}

/// One or two bytes are changed, inserted or removed.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(2) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => bytes[at] = random.bits() as u8,
            1 => bytes.insert(at, random.bits() as u8),
            _ => drop(bytes.remove(at)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn values_of_all_shapes_are_read_as_rmp_serde_reads_them(seed: u64, named: bool) {
        let value = Random::new(seed).value(3);
        let read = same::<Zoo>(&encoded(&value, named));
        // Not all of them have a compact form, see `payload::encode`.
        if named {
            prop_assert_eq!(read, Ok(value));
        }
    }

    #[test]
    fn damaged_values_are_read_or_refused_as_rmp_serde_does(seed: u64, named: bool) {
        let mut random = Random::new(seed);
        let mut bytes = encoded(&random.value(2), named);
        bytes.truncate(2_000);
        for _ in 0..4 {
            damage(&mut bytes, &mut random);
            let _ = same::<Zoo>(&bytes);
            let _ = same::<IgnoredAny>(&bytes);
            let _ = same::<serde_json::Value>(&bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_rmp_serde_does(
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        type Mixed = (u8, Option<String>, Vec<Sparse>);
        let _ = same::<Zoo>(&bytes);
        let _ = same::<Mixed>(&bytes);
        let _ = same::<Vec<Option<u64>>>(&bytes);
        let _ = same::<(f32, u128, bool)>(&bytes);
        let _ = same::<serde_json::Value>(&bytes);
        let _ = <(Zoo, Option<u8>, Defaulted<u8>)>::decode(&bytes, &[], DecodeLimits::new());
    }

    #[test]
    fn each_prefix_of_a_value_is_refused(seed: u64) {
        let bytes = encoded(&Random::new(seed).value(1), seed % 2 == 0);
        for end in 0..bytes.len().min(200) {
            prop_assert!(decode::<IgnoredAny>(&bytes[..end], DecodeLimits::new()).is_err());
            let _ = same::<Zoo>(&bytes[..end]);
        }
    }
}

/// Integers in wider forms than they need, floats for floats of another width, and so on.
#[test]
fn each_scalar_is_read_as_each_other_one_as_rmp_serde_does() {
    let mut scalars: Vec<Vec<u8>> = (0..=255).map(|marker| vec![marker; 20]).collect();
    for marker in 0xc0..=0xdf_u8 {
        for (fill, last) in [(0, 5), (0xff, 0xfb), (0, 0), (0x7f, 0xff)] {
            let mut bytes = vec![fill; 20];
            bytes[0] = marker;
            for end in [1, 2, 4, 8] {
                bytes[end] = last;
                scalars.push(bytes.clone());
            }
        }
    }
    macro_rules! as_each {
        ($bytes:ident: $($T:ty),*) => { $(let _ = same::<$T>($bytes);)* };
    }
    for bytes in &scalars {
        as_each!(bytes: u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64, bool, char);
        as_each!(bytes: (), String, Option<u8>, Vec<u8>, crate::Blob, (u8, u8), [u8; 3]);
        as_each!(bytes: Option<Option<u8>>, IgnoredAny, serde_json::Value, Sparse);
    }
}

#[test]
fn strings_and_bytes_can_be_borrowed() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Borrowed<'a> {
        text: &'a str,
        bytes: &'a [u8],
    }
    let bytes = b"\x82\xa4text\xa2hi\xa5bytes\xc4\x02\x01\x02";
    let decoded = super::super::decode_with(bytes, DecodeLimits::new(), |deserializer| {
        Borrowed::deserialize(deserializer)
    });
    assert_eq!(decoded.unwrap().value, Borrowed { text: "hi", bytes: &[1, 2] });
}

/// These two have no compact form that can be read back, whoever reads; the tracing of shapes keeps
/// them named.
#[test]
fn untagged_and_adjacently_tagged_enums_are_read_in_the_named_form() {
    for seed in 0..200 {
        let value = Random::new(seed).value(0);
        let wrapped = vec![(value, 7)];
        let read = same::<Vec<(Zoo, u8)>>(&encoded(&wrapped, true));
        assert_eq!(read, Ok(wrapped));
    }
}

#[test]
fn errors_say_what_was_found_and_what_was_expected() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its refusals matter")]
    enum Shape {
        Dot,
        Line(u8),
    }
    fn error<T: DeserializeOwned + Debug>(bytes: &[u8]) -> String {
        let error = decode::<T>(bytes, DecodeLimits::new()).unwrap_err();
        assert!(error.is_decode());
        error.message().to_owned()
    }
    assert_eq!(error::<u8>(b"\xa5seven"), "invalid type: a string, expected u8");
    assert_eq!(error::<u8>(b"\xcd\x01\x00"), "invalid value: integer `256`, expected u8");
    assert_eq!(error::<u8>(b""), "the bytes end within the value");
    assert_eq!(error::<String>(b"\x07"), "invalid type: integer `7`, expected a string");
    assert_eq!(error::<String>(b"\xa1\xff"), "a string is not UTF-8");
    assert_eq!(
        error::<Vec<u8>>(b"\x93\x01"),
        "3 elements are announced, more than the bytes can hold"
    );
    assert_eq!(error::<(u8,)>(b"\x92\x01\x02"), "invalid length: 1 elements too many");
    assert_eq!(error::<(u8, u8)>(b"\x91\x01"), "invalid length 1, expected a tuple of size 2");
    assert_eq!(error::<Shape>(b"\xa3Sky"), "unknown variant `Sky`, expected `Dot` or `Line`");
    assert_eq!(error::<Shape>(b"\xa4Line"), "invalid type: unit variant, expected newtype variant");
    assert_eq!(error::<Shape>(b"\x80"), "an enum variant is a map of one entry, not of 0");
    assert_eq!(error::<i128>(b"\xc4\x02"), "a 128-bit integer has 16 bytes, not 2");
    assert_eq!(error::<IgnoredAny>(b"\xc1"), "the byte 0xc1 begins no value");
    let mut variant = vec![0xdb, 0, 1, 0, 0];
    variant.resize(5 + (1 << 16), b'x');
    assert!(error::<Shape>(&variant).len() <= 1024 + '…'.len_utf8());
}
