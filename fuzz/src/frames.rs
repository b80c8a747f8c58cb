//! The codec: bytes in any pieces decode to the same frames, and frames encode to the same bytes.

use rpc_runtime::protocol::{Body, Codec, Decoded, Frame, FrameCodec, HEADER_LEN, Output};

use crate::input::Input;

const LIMITS: [usize; 4] = [0, 50, 1_000, 8 << 20];

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let payload = LIMITS[usize::from(input.byte()) % LIMITS.len()];
    let control = LIMITS[usize::from(input.byte()) % LIMITS.len()];
    let piece = usize::from(input.byte()) + 1;
    let bytes = input.rest();
    let codec = || FrameCodec::new(payload).with_max_control(control);
    let whole = decode(codec(), [bytes], payload.max(control));
    assert_eq!(whole, decode(codec(), bytes.chunks(piece), payload.max(control)));
    write_again(codec(), bytes, &whole.0);
}

/// The frames, and the error that ended them.
fn decode<'a>(
    mut codec: FrameCodec,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limit: usize,
) -> (Vec<Frame<'static>>, Option<String>) {
    let (mut frames, mut buffer) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let consumed = match codec.decode(&buffer) {
                Ok(Decoded::Frame { frame, consumed }) => {
                    frames.push(frame.into_owned());
                    consumed
                }
                Ok(Decoded::Discarded { consumed }) => consumed,
                Ok(Decoded::Incomplete { needed }) => {
                    assert!((buffer.len() + 1..=HEADER_LEN + limit).contains(&needed));
                    break;
                }
                Ok(_) => panic!("this codec never gives way"),
                Err(error) => {
                    // The hint that it is TLS takes two bytes, and one is enough to refuse it.
                    let message = error.to_string();
                    let reason = message.split(';').next().unwrap_or_default();
                    return (frames, Some(reason.to_owned()));
                }
            };
            assert!((1..=buffer.len()).contains(&consumed), "no progress");
            buffer.drain(..consumed);
        }
    }
    (frames, None)
}

fn write_again(mut codec: FrameCodec, bytes: &[u8], frames: &[Frame<'_>]) {
    let mut rest = bytes;
    for frame in frames {
        let length = frame.header.length as usize;
        if !matches!(frame.body, Body::TooLarge { .. }) {
            let mut out = Output::default();
            codec.encode(frame, &mut out).expect("what was read can be written");
            assert_eq!(out.to_vec(), rest[..HEADER_LEN + length]);
        }
        rest = rest.get(HEADER_LEN + length..).unwrap_or_default();
    }
}
