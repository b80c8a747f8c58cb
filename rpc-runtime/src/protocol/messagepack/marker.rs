//! The first bytes of MessagePack's values.

use serde::de::Unexpected;

pub(super) const POSITIVE_LAST: u8 = 0x7f;
pub(super) const FIXMAP: u8 = 0x80;
pub(super) const FIXMAP_LAST: u8 = 0x8f;
pub(super) const FIXARRAY: u8 = 0x90;
pub(super) const FIXARRAY_LAST: u8 = 0x9f;
pub(super) const FIXSTR: u8 = 0xa0;
pub(super) const FIXSTR_LAST: u8 = 0xbf;
pub(super) const NIL: u8 = 0xc0;
pub(super) const FALSE: u8 = 0xc2;
pub(super) const TRUE: u8 = 0xc3;
pub(super) const BIN8: u8 = 0xc4;
pub(super) const BIN16: u8 = 0xc5;
pub(super) const BIN32: u8 = 0xc6;
pub(super) const EXT8: u8 = 0xc7;
pub(super) const EXT16: u8 = 0xc8;
pub(super) const EXT32: u8 = 0xc9;
pub(super) const F32: u8 = 0xca;
pub(super) const F64: u8 = 0xcb;
pub(super) const U8: u8 = 0xcc;
pub(super) const U16: u8 = 0xcd;
pub(super) const U32: u8 = 0xce;
pub(super) const U64: u8 = 0xcf;
pub(super) const I8: u8 = 0xd0;
pub(super) const I16: u8 = 0xd1;
pub(super) const I32: u8 = 0xd2;
pub(super) const I64: u8 = 0xd3;
pub(super) const FIXEXT1: u8 = 0xd4;
pub(super) const FIXEXT16: u8 = 0xd8;
pub(super) const STR8: u8 = 0xd9;
pub(super) const STR16: u8 = 0xda;
pub(super) const STR32: u8 = 0xdb;
pub(super) const ARRAY16: u8 = 0xdc;
pub(super) const ARRAY32: u8 = 0xdd;
pub(super) const MAP16: u8 = 0xde;
pub(super) const MAP32: u8 = 0xdf;
pub(super) const NEGATIVE: u8 = 0xe0;

/// The length within a `fixarray` or a `fixmap`.
pub(super) const FIX_LENGTH: u8 = 0x0f;
/// The length within a `fixstr`.
pub(super) const FIXSTR_LENGTH: u8 = 0x1f;

/// The type of a value that begins with this byte, for messages.
pub(super) fn describe(marker: u8) -> Unexpected<'static> {
    match marker {
        FIXMAP..=FIXMAP_LAST | MAP16 | MAP32 => Unexpected::Map,
        FIXARRAY..=FIXARRAY_LAST | ARRAY16 | ARRAY32 => Unexpected::Seq,
        FIXSTR..=FIXSTR_LAST | STR8..=STR32 => Unexpected::Other("a string"),
        NIL => Unexpected::Unit,
        FALSE | TRUE => Unexpected::Bool(marker == TRUE),
        BIN8..=BIN32 => Unexpected::Other("bytes"),
        EXT8..=EXT32 | FIXEXT1..=FIXEXT16 => Unexpected::Other("an extension"),
        F32 | F64 => Unexpected::Other("a floating point number"),
        0..=POSITIVE_LAST | NEGATIVE.. | U8..=U64 | I8..=I64 => Unexpected::Other("an integer"),
        _ => Unexpected::Other("a byte that begins no value"),
    }
}
