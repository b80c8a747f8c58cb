//! What is inside the frames: MessagePack, arguments, metadata, errors.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};

pub use super::defaulted::Defaulted;
use super::defaulted::Missing;
use super::header::Flags;
use super::messagepack::{self, Counted, DecodeLimits, NotDecoded, decode_with};
use super::output::{Output, Sink};
use super::positional::Positional;
use crate::descriptor::ArgumentDescriptor;
use crate::error::{self, RpcError};
use crate::metadata::Metadata;
use crate::shape::{self, Shape};
use crate::status::Status;

/// How structs are written. Readers take both forms without being told which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Form {
    /// As maps from field name to value. Old and new versions of a struct read each other.
    Named,
    /// As arrays of values, which go by their positions.
    Compact,
}

impl Form {
    pub(crate) fn flags(self) -> Flags {
        match self {
            Self::Named => Flags::default(),
            Self::Compact => Flags::COMPACT,
        }
    }

    pub(crate) fn of(flags: Flags) -> Self {
        if flags.contains(Flags::COMPACT) { Self::Compact } else { Self::Named }
    }
}

/// Limit of the encoded metadata of one call.
pub(crate) const MAX_METADATA: usize = 16 << 10;

/// Appends `value`, and says in which form: what compact cannot write as it is, see
/// [`Positional`], is written named. On failure `out` is as it was.
#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    form: Form,
    out: &mut impl Sink,
) -> Result<Form, RpcError> {
    error::withheld(|| write(value, form, out))
}

#[inline]
fn write<T: Serialize + ?Sized>(
    value: &T,
    form: Form,
    out: &mut impl Sink,
) -> Result<Form, RpcError> {
    let start = out.written();
    if form == Form::Compact {
        let mut serializer = rmp_serde::Serializer::new(&mut *out);
        if value.serialize(Positional(&mut serializer)).is_ok() {
            return Ok(Form::Compact);
        }
        out.take_back(start);
    }
    rmp_serde::encode::write_named(out, value).map(|()| Form::Named).map_err(|error| {
        out.take_back(start);
        RpcError::internal("the value cannot be encoded as MessagePack").with_source(&error)
    })
}

/// Reads a value in either form, with the default limits.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    messagepack::decode(bytes, DecodeLimits::new())
}

/// What can cross the wire. One trait in place of serde's two, so that a type which lacks both is
/// one error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross the wire",
    label = "contains `{Self}`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it; it must be `Send + 'static`, too",
    note = "an argument marked `#[rpc(default)]` needs `Default` as well"
)]
pub trait Wire: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Wire for T {}

/// The arguments of a method: `()`, or a tuple of one to sixteen values.
///
/// They travel as an array. Where the array is shorter than the tuple, a missing `Option` is `None`
/// and a [`Defaulted`] argument its default; what is too much is skipped. So a signature can grow at
/// its end while old and new ends go on talking.
#[diagnostic::on_unimplemented(
    message = "the arguments of a remote method must be owned serde types",
    label = "an argument of this method cannot travel",
    note = "each argument needs `Serialize + DeserializeOwned + Send + 'static`"
)]
pub trait Arguments: Sized + Send + 'static {
    /// Appends the array, and says in which form.
    #[doc(hidden)]
    fn encode(&self, form: Form, out: &mut Output) -> Result<Form, RpcError>;

    /// Reads the array; the descriptors are for messages.
    #[doc(hidden)]
    fn decode(
        bytes: &[u8],
        descriptors: &[ArgumentDescriptor],
        limits: DecodeLimits,
    ) -> Result<Counted<Self>, NotDecoded>;

    /// The shape of the array, if all arguments have one.
    #[doc(hidden)]
    fn shape() -> Option<Shape>;
}

impl Arguments for () {
    fn encode(&self, form: Form, out: &mut Output) -> Result<Form, RpcError> {
        // serde writes `()` as nil; arguments are always an array.
        encode::<[u8; 0]>(&[], form, out)
    }

    fn decode(
        bytes: &[u8],
        _: &[ArgumentDescriptor],
        limits: DecodeLimits,
    ) -> Result<Counted<Self>, NotDecoded> {
        struct Nothing;
        impl<'de> Visitor<'de> for Nothing {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                skip_rest(&mut seq)
            }
        }
        decode_with(bytes, limits, |array| array.deserialize_tuple(0, Nothing))
    }

    fn shape() -> Option<Shape> {
        Some(Shape::Tuple(Vec::new()))
    }
}

/// Maximum arguments of a method.
const ARGUMENTS: usize = 16;

struct ArgumentsVisitor<'d, T>(&'d [ArgumentDescriptor], PhantomData<T>);

macro_rules! arguments {
    ($($at:tt $T:ident),+) => {
        impl<$($T: Wire),+> Arguments for ($($T,)+) {
            #[inline]
            fn encode(&self, form: Form, out: &mut Output) -> Result<Form, RpcError> {
                encode(self, form, out)
            }

            #[inline]
            fn decode(
                bytes: &[u8],
                descriptors: &[ArgumentDescriptor],
                limits: DecodeLimits,
            ) -> Result<Counted<Self>, NotDecoded> {
                let visitor = ArgumentsVisitor(descriptors, PhantomData::<Self>);
                // Read as a tuple: the elements of a sequence would all be charged like the first
                // one.
                decode_with(bytes, limits, |array| array.deserialize_tuple(ARGUMENTS, visitor))
            }

            fn shape() -> Option<Shape> {
                Some(Shape::Tuple(vec![$(shape::of::<$T>()?),+]))
            }
        }

        impl<'de, $($T: DeserializeOwned),+> Visitor<'de> for ArgumentsVisitor<'_, ($($T,)+)> {
            type Value = ($($T,)+);

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of arguments")
            }

            #[inline]
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let value = ($(next_argument::<$T, A>(&mut seq, self.0, $at)?,)+);
                skip_rest(&mut seq)?;
                Ok(value)
            }
        }
    };
}

arguments!(0 T0);
arguments!(0 T0, 1 T1);
arguments!(0 T0, 1 T1, 2 T2);
arguments!(0 T0, 1 T1, 2 T2, 3 T3);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9, 10 T10);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9, 10 T10, 11 T11);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9, 10 T10, 11 T11, 12 T12);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9, 10 T10, 11 T11, 12 T12, 13 T13);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9, 10 T10, 11 T11, 12 T12, 13 T13, 14 T14);
arguments!(0 T0, 1 T1, 2 T2, 3 T3, 4 T4, 5 T5, 6 T6, 7 T7, 8 T8, 9 T9, 10 T10, 11 T11, 12 T12, 13 T13, 14 T14, 15 T15);

#[inline]
fn next_argument<'de, T: DeserializeOwned, A: SeqAccess<'de>>(
    seq: &mut A,
    descriptors: &[ArgumentDescriptor],
    at: usize,
) -> Result<T, A::Error> {
    let result = match seq.next_element() {
        Ok(Some(value)) => return Ok(value),
        Ok(None) => T::deserialize(Missing).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    result.map_err(|cause| match descriptors.get(at) {
        Some(argument) => A::Error::custom(format_args!(
            "argument `{}: {}`: {cause}",
            argument.name(),
            argument.type_name()
        )),
        None => A::Error::custom(format_args!("argument {at}: {cause}")),
    })
}

fn skip_rest<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Appends the metadata section: its length in four bytes, then a map.
pub(crate) fn encode_metadata(metadata: &Metadata, out: &mut Vec<u8>) -> Result<(), RpcError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode(metadata, Form::Named, out)?;
    let length = out.len() - start - 4;
    match u32::try_from(length) {
        Ok(wire) if length <= MAX_METADATA => {
            if let Some(field) = out.get_mut(start..start + 4) {
                field.copy_from_slice(&wire.to_be_bytes());
            }
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(RpcError::new(
                Status::TooLarge,
                format!("metadata of {length} bytes is over the limit of {MAX_METADATA} bytes"),
            )
            .unexecuted())
        }
    }
}

/// Splits a payload into its metadata, if the flags say that it has some, and the rest.
pub(crate) fn split_metadata(
    flags: Flags,
    payload: &[u8],
) -> Result<(Option<Metadata>, &[u8]), RpcError> {
    if !flags.contains(Flags::METADATA) {
        return Ok((None, payload));
    }
    let damaged = || RpcError::new(Status::Decode, "the metadata section is damaged");
    let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_METADATA {
        return Err(RpcError::new(
            Status::TooLarge,
            format!("metadata of {length} bytes is over the limit of {MAX_METADATA} bytes"),
        ));
    }
    let (metadata, arguments) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let metadata = decode(metadata).map_err(|error| damaged().with_source(&error))?;
    Ok((Some(metadata), arguments))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    const TWO: &[ArgumentDescriptor] =
        &[ArgumentDescriptor::new("account", "u32"), ArgumentDescriptor::new("note", "String")];

    fn encoded(arguments: &impl Arguments) -> Vec<u8> {
        let mut out = Output::default();
        arguments.encode(Form::Named, &mut out).unwrap();
        out.to_vec()
    }

    fn arguments<A: Arguments>(
        bytes: &[u8],
        descriptors: &[ArgumentDescriptor],
    ) -> Result<A, RpcError> {
        Ok(A::decode(bytes, descriptors, DecodeLimits::new())?.value)
    }

    #[test]
    fn a_wrong_or_missing_argument_is_named() {
        let bytes = encoded(&("seven".to_owned(), "x".to_owned()));
        let error = arguments::<(u32, String)>(&bytes, TWO).unwrap_err();
        assert!(
            error.is_decode() && error.message().contains("argument `account: u32`"),
            "{error}"
        );
        let error = arguments::<(u32, String)>(&encoded(&(7_u32,)), TWO).unwrap_err();
        assert!(error.message().contains("argument `note: String`: missing"), "{error}");
    }

    #[test]
    fn a_signature_can_grow_at_its_end() {
        let old = encoded(&(7_u32,));
        let new: (u32, Option<String>, Defaulted<u8>) = arguments(&old, TWO).unwrap();
        assert_eq!(new, (7, None, Defaulted(0)));
        let (seven,): (u32,) =
            arguments(&encoded(&(7_u32, Some("x".to_owned()), 3_u8)), TWO).unwrap();
        assert_eq!(seven, 7);
        arguments::<()>(&old, &[]).unwrap();
        let (given,): (Defaulted<u8>,) = arguments(&encoded(&(Defaulted(3_u8),)), TWO).unwrap();
        assert_eq!(given.0, 3);
    }

    #[test]
    fn both_encodings_are_read_without_being_told() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Point {
            x: i32,
            y: i32,
        }
        for form in [Form::Named, Form::Compact] {
            let mut out = Output::default();
            (Point { x: 1, y: -2 },).encode(form, &mut out).unwrap();
            let (point,) = arguments::<(Point,)>(&out.to_vec(), &[]).unwrap();
            assert_eq!(point, Point { x: 1, y: -2 });
        }
    }

    #[test]
    fn nesting_beyond_the_limit_is_an_error_and_not_a_stack_overflow() {
        #[derive(Deserialize)]
        struct Nested(#[allow(dead_code)] Vec<Nested>);
        let bytes = vec![0x91; 1 << 20];
        assert!(decode::<Nested>(&bytes).is_err());
        assert!(arguments::<()>(&bytes, &[]).is_err());
    }

    proptest! {
        #[test]
        fn metadata_reads_back(metadata: Metadata, rest: Vec<u8>) {
            let mut out = Vec::new();
            encode_metadata(&metadata, &mut out).unwrap();
            out.extend_from_slice(&rest);
            let (read, arguments) = split_metadata(Flags::METADATA, &out).unwrap();
            prop_assert_eq!(read, Some(metadata));
            prop_assert_eq!(arguments, &rest[..]);
        }

        #[test]
        fn no_bytes_panic_the_readers(bytes: Vec<u8>) {
            let _ = split_metadata(Flags::METADATA, &bytes);
            let _ = arguments::<(u32, Vec<String>, Option<f64>)>(&bytes, &[]);
        }
    }
}
