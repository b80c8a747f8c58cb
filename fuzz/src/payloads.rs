//! Payloads beside users' values: hellos, metadata, errors, arrays of arguments.

use std::error::Error;

use rpc_runtime::__fuzz::{
    Defaulted, agreed_form, decode_arguments, decode_hello, encode_hello, encode_metadata,
    read_error, shorten_hello, split_metadata, write_error,
};
use rpc_runtime::protocol::{Flags, Header, Kind};

use crate::input::Input;
use crate::zoo::{Expr, Plain};

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => hello(&mut input),
        1 => metadata(input.rest()),
        2 => error(&mut input),
        _ => arguments(input.rest()),
    }
}

fn hello(input: &mut Input<'_>) {
    let (limit, method) = (usize::from(input.u16()), input.u64());
    let Ok(mut hello) = decode_hello(input.rest()) else { return };
    let bytes = encode_hello(&hello).expect("what was read can be written");
    assert_eq!(decode_hello(&bytes).as_ref(), Ok(&hello));
    let told = hello.services.iter().flat_map(|service| &service.methods).map(|(id, _)| *id);
    for id in told.chain([method]).take(20) {
        let form = agreed_form(&hello, id, || 7);
        assert_eq!(form, agreed_form(&hello, id, || 7));
    }
    shorten_hello(&mut hello, limit).expect("a part of what was read can be written");
    let fits = encode_hello(&hello).unwrap().len() <= limit;
    assert!(fits || hello.services.iter().all(|service| service.methods.is_empty()));
}

fn metadata(payload: &[u8]) {
    let Ok((metadata, rest)) = split_metadata(Flags::METADATA, payload) else { return };
    assert!(payload.ends_with(rest));
    let Ok(mut again) = encode_metadata(metadata.as_ref().unwrap()) else { return };
    again.extend_from_slice(rest);
    assert_eq!(split_metadata(Flags::METADATA, &again), Ok((metadata, rest)));
}

fn error(input: &mut Input<'_>) {
    let header = Header {
        status: input.u16(),
        flags: Flags::from_bits(input.u16()),
        ..Header::new(Kind::Response)
    };
    let error = read_error(&header, input.rest());
    let mut causes = 0;
    let mut cause = error.source();
    while let Some(deeper) = cause {
        causes += 1;
        cause = deeper.source();
    }
    assert!(causes <= 200, "{causes} causes");
    let _ = format!("{error} {error:?}");
    let (header, body) = write_error(7, &error);
    let again = read_error(&header, &body);
    assert_eq!((again.status(), again.message()), (error.status(), error.message()));
    assert_eq!(again.is_safe_to_retry(), error.is_safe_to_retry());
}

fn arguments(bytes: &[u8]) {
    let none = decode_arguments::<()>(bytes);
    if let Ok((number,)) = decode_arguments::<(u64,)>(bytes) {
        assert!(none.is_ok(), "an array with {number} is an array");
    }
    let _ = decode_arguments::<(u32, Option<String>, Defaulted<u8>)>(bytes);
    let _ = decode_arguments::<(Plain, Vec<Plain>)>(bytes);
    let _ = decode_arguments::<(Option<Expr>, String, Vec<Expr>)>(bytes);
}
