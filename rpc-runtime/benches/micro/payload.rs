//! Encoding and decoding of values and arguments.

use divan::{Bencher, black_box};
use rpc_runtime::__bench::{Arguments, Form, clear, decode, encode};
use rpc_runtime::protocol::{DecodeLimits, Output};

use crate::order::{Order, order};

const FORMS: [Form; 2] = [Form::Named, Form::Compact];

#[divan::bench(args = FORMS)]
fn value_encode(bencher: Bencher<'_, '_>, form: Form) {
    let (order, mut out) = (order(), Vec::with_capacity(1 << 10));
    bencher.bench_local(|| {
        out.clear();
        encode(black_box(&order), form, &mut out)
    });
}

#[divan::bench(args = FORMS)]
fn value_decode(bencher: Bencher<'_, '_>, form: Form) {
    let mut bytes = Vec::new();
    encode(&order(), form, &mut bytes).unwrap();
    bencher.bench_local(|| decode::<Order>(black_box(&bytes)));
}

type Three = (u64, String, Order);

fn three() -> Three {
    (7, "0123456789abcdef".into(), order())
}

#[divan::bench(args = FORMS)]
fn arguments_encode(bencher: Bencher<'_, '_>, form: Form) {
    let (arguments, mut out) = (three(), Output::from(Vec::with_capacity(1 << 10)));
    bencher.bench_local(|| {
        black_box(&arguments).encode(form, &mut out).unwrap();
        clear(&mut out);
    });
}

#[divan::bench(args = FORMS)]
fn arguments_decode(bencher: Bencher<'_, '_>, form: Form) {
    let mut encoded = Output::default();
    three().encode(form, &mut encoded).unwrap();
    let bytes = encoded.to_vec();
    bencher
        .bench_local(|| <Three as Arguments>::decode(black_box(&bytes), &[], DecodeLimits::new()));
}
