//! Values of every shape: they decode as with rmp-serde, and encoded again they decode to the same
//! value.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::BTreeMap;

use rpc_runtime::__fuzz::{Form, encode, has_shape};
use rpc_runtime::Blob;
use rpc_runtime::protocol::{DecodeLimits, decode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::zoo::{
    Adjacent, Bytes, Chain, Defaults, Expr, Flat, Maps, Mixed, Nest, Plain, Tagged, Untagged, Wide,
};

/// Deeper values are not compared, since the limits differ.
const COMPARED_DEPTH: usize = 24;
/// A memory limit that inputs of a few kilobytes can reach, and the maximum real memory with it. A
/// growing collection doubles, and the previous allocation still exists meanwhile.
const BUDGET: usize = 64 << 10;
const MOST_TAKEN: u64 = 4 * (BUDGET as u64);
/// Values whose type serde finds out by reading are copied at each level, and the room that each
/// collection has for its first elements with them: on average, 64 bytes for two levels. At the
/// maximum depth of 256 levels that is 4 MiB.
const BUFFERED: u64 = 64;

thread_local! {
    /// Whether types may be encoded compact, by their names.
    static SHAPES: RefCell<BTreeMap<&'static str, bool>> = const { RefCell::new(BTreeMap::new()) };
}

pub(crate) fn run(data: &[u8]) {
    let (kind, body) = data.split_first().unwrap_or((&0, data));
    const CHECKS: [fn(&[u8]); 20] = [
        check::<Plain>,
        check::<Expr>,
        check::<Nest>,
        check::<Chain>,
        check::<Mixed>,
        check::<Maps>,
        check::<Defaults>,
        check::<Bytes>,
        check::<Wide>,
        check::<Flat>,
        check::<Untagged>,
        check::<Tagged>,
        check::<Adjacent>,
        check::<Vec<Plain>>,
        check::<Vec<Expr>>,
        check::<Vec<Defaults>>,
        check::<BTreeMap<String, Tagged>>,
        check::<(u8, Option<Plain>, Vec<()>, char)>,
        check::<Blob>,
        check::<Vec<Box<Mixed>>>,
    ];
    CHECKS[usize::from(*kind) % CHECKS.len()](body);
}

fn check<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let little = DecodeLimits::new().memory(BUDGET);
    let taken = allocation_counter::measure(|| drop(decode::<T>(body, little))).bytes_max;
    let most = MOST_TAKEN + 2 * body.len() as u64 + BUFFERED * (depth(body).min(256) as u64).pow(2);
    assert!(taken <= most, "{taken} bytes for {}", body.len());
    let value = decode::<T>(body, DecodeLimits::new());
    if depth(body) <= COMPARED_DEPTH {
        match (&value, &rmp_serde::from_slice::<T>(body)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(named(ours), named(theirs)),
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) => panic!("rmp-serde refuses it: {error}"),
            (Err(error), Ok(_)) => panic!("rmp-serde takes it: {error}"),
        }
    }
    let Ok(value) = value else { return };
    for form in [Form::Named, Form::Compact] {
        if form == Form::Compact && !may_be_compact::<T>() {
            continue;
        }
        let (bytes, _) = encode(&value, form).expect("what was read can be written");
        let again = decode::<T>(&bytes, DecodeLimits::new()).expect("what was written can be read");
        assert_eq!(encode(&again, form).unwrap().0, bytes);
    }
}

fn may_be_compact<T: Serialize + DeserializeOwned>() -> bool {
    SHAPES.with_borrow_mut(|known| *known.entry(type_name::<T>()).or_insert_with(has_shape::<T>))
}

fn named(value: &impl Serialize) -> Vec<u8> {
    encode(value, Form::Named).expect("what was read can be written").0
}

/// Maximum nesting of arrays and maps in the first value, up to the first damaged byte.
fn depth(bytes: &[u8]) -> usize {
    let (mut open, mut deepest, mut at) = (vec![1_usize], 0, 0);
    while let Some(left) = open.last_mut() {
        let Some(next) = left.checked_sub(1) else {
            open.pop();
            continue;
        };
        *left = next;
        let number = |count: usize| {
            let digits = bytes.get(at + 1..at + 1 + count).unwrap_or_default();
            digits.iter().fold(0_usize, |number, digit| number << 8 | usize::from(*digit))
        };
        let Some(&marker) = bytes.get(at) else { break };
        let (skip, inside) = match marker {
            0x80..=0x8f => (1, Some(2 * usize::from(marker & 0x0f))),
            0x90..=0x9f => (1, Some(usize::from(marker & 0x0f))),
            0xdc => (3, Some(number(2))),
            0xdd => (5, Some(number(4))),
            0xde => (3, Some(2 * number(2))),
            0xdf => (5, Some(2 * number(4))),
            0xa0..=0xbf => (1 + usize::from(marker & 0x1f), None),
            0xc4 | 0xd9 => (2 + number(1), None),
            0xc5 | 0xda => (3 + number(2), None),
            0xc6 | 0xdb => (5 + number(4), None),
            0xc7 => (3 + number(1), None),
            0xc8 => (4 + number(2), None),
            0xc9 => (6 + number(4), None),
            0xd4..=0xd8 => (2 + (1 << (marker - 0xd4)), None),
            0xcc | 0xd0 => (2, None),
            0xcd | 0xd1 => (3, None),
            0xce | 0xd2 | 0xca => (5, None),
            0xcf | 0xd3 | 0xcb => (9, None),
            _ => (1, None),
        };
        at += skip;
        if let Some(inside) = inside {
            open.push(inside);
            deepest = deepest.max(open.len());
        }
    }
    deepest
}
