//! Frames out of bytes, however the network cuts them; and bytes that are none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::Index;
use rpc_runtime::RpcError;
use rpc_runtime::pipeline::{
    Change, ChannelContext, ChannelHandler, EmbeddedChannel, Flow, Pipeline, Tail, Watermarks,
};
use rpc_runtime::protocol::{
    Body, Codec, Decoded, Flags, Frame, FrameCodec, HEADER_LEN, Header, Kind, MAGIC, Output,
    VERSION,
};

/// The payload limit of these tests.
const LIMIT: usize = 40;

fn channel() -> EmbeddedChannel {
    channel_with(FrameCodec::new(LIMIT))
}

fn channel_with(codec: impl Codec) -> EmbeddedChannel {
    EmbeddedChannel::with_codec(Instant::now(), codec, Watermarks::default())
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Output::default();
    FrameCodec::new(1 << 20).encode(frame, &mut out).unwrap();
    out.to_vec()
}

/// What is to arrive of `frame`.
fn arriving(frame: &Frame<'static>) -> Frame<'static> {
    let length = frame.body.as_slice().len();
    let header = Header { length: length as u32, ..frame.header };
    let body = if length > LIMIT { Body::TooLarge { limit: LIMIT } } else { frame.body.clone() };
    Frame { header, body }
}

fn drain(channel: &mut EmbeddedChannel) -> Vec<Frame<'static>> {
    std::iter::from_fn(|| channel.read_inbound()).collect()
}

fn frame() -> impl Strategy<Value = Frame<'static>> {
    let body = prop_oneof![
        1 => Just(Vec::new()),
        4 => proptest::collection::vec(any::<u8>(), 1..=LIMIT),
        1 => proptest::collection::vec(any::<u8>(), LIMIT..=LIMIT),
        1 => proptest::collection::vec(any::<u8>(), LIMIT + 1..3 * LIMIT),
        // A payload that looks like frames itself.
        1 => Just(encoded(&Frame::of_kind(Kind::Ping)).repeat(2)),
    ];
    let numbers = (0..16_u8, any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u32>());
    (numbers, body).prop_map(|((kind, flags, status, id, method, deadline_ms), body)| {
        let kind = Kind::from_wire(kind);
        let flags = Flags::from_bits(flags);
        let header = Header { kind, flags, status, id, method, deadline_ms, length: 0 };
        Frame { header, body: Body::Owned(body.into()) }
    })
}

/// `bytes` in pieces that end at `cuts`.
fn cut<'b>(bytes: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter()
        .map(|end| {
            let piece = &bytes[start..end];
            start = end;
            piece
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn frames_are_the_same_wherever_the_bytes_are_cut(
        frames in proptest::collection::vec(frame(), 1..8),
        cuts in proptest::collection::vec(any::<Index>(), 0..20),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        let expected: Vec<_> = frames.iter().map(arriving).collect();

        let mut whole = channel();
        whole.write_inbound_bytes(&bytes);
        prop_assert_eq!(drain(&mut whole), expected.clone());

        let mut random = channel();
        cut(&bytes, &cuts).into_iter().for_each(|piece| random.write_inbound_bytes(piece));
        prop_assert_eq!(drain(&mut random), expected.clone());

        let mut single = channel();
        bytes.iter().for_each(|byte| single.write_inbound_bytes(&[*byte]));
        prop_assert_eq!(drain(&mut single), expected.clone());

        for at in 0..=bytes.len() {
            let (front, back) = bytes.split_at(at);
            let mut twice = channel();
            twice.write_inbound_bytes(front);
            twice.write_inbound_bytes(back);
            prop_assert_eq!(drain(&mut twice), expected.clone(), "cut at {}", at);
        }
    }

    #[test]
    fn written_frames_read_back_as_they_were(frames in proptest::collection::vec(frame(), 0..8)) {
        let mut from = channel();
        let mut to = channel();
        let mut sent = Vec::new();
        let mut bytes = Vec::new();
        for frame in &frames {
            let result = from.write_outbound(frame.clone());
            let fits = frame.body.as_slice().len() <= LIMIT;
            prop_assert_eq!(result.is_ok(), fits);
            if fits {
                sent.push(arriving(frame));
            }
            // Taken at once: a heartbeat would overtake what is queued.
            bytes.extend(from.take_output());
        }
        to.write_inbound_bytes(&bytes);
        prop_assert_eq!(drain(&mut to), sent);
    }

    #[test]
    fn a_tail_that_takes_a_few_frames_at_a_time_gets_them_all(
        frames in proptest::collection::vec(frame(), 1..8),
        cuts in proptest::collection::vec(any::<Index>(), 0..6),
        welcome in proptest::collection::vec(0..3_usize, 1..6),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        let now = Instant::now();
        let mut pipeline = Pipeline::new(FrameCodec::new(LIMIT), Watermarks::default());
        let mut tail = Picky::default();
        let mut input = Vec::new();
        let mut welcome = welcome.into_iter().chain(std::iter::repeat(1));
        for piece in cut(&bytes, &cuts) {
            input.extend_from_slice(piece);
            tail.welcome = welcome.next().unwrap_or_default();
            let consumed = pipeline.read(&input, now, &mut tail);
            input.drain(..consumed);
            // A driver that sizes its buffer asks this, as often as it likes.
            prop_assert!(pipeline.needed(&input) <= LIMIT.max(input.len()) + HEADER_LEN);
            pipeline.needed(&input);
        }
        for _ in &frames {
            tail.welcome = 1;
            let consumed = pipeline.read(&input, now, &mut tail);
            input.drain(..consumed);
            pipeline.needed(&input);
        }
        tail.welcome = 1;
        pipeline.read(&input, now, &mut tail);
        prop_assert_eq!(tail.frames, frames.iter().map(arriving).collect::<Vec<_>>());
        prop_assert_eq!(pipeline.closing(), None);
    }

    #[test]
    fn random_bytes_do_no_harm_and_never_make_it_ask_for_more_than_a_frame(
        pieces in proptest::collection::vec(nearly_bytes(), 0..12),
    ) {
        let now = Instant::now();
        let mut pipeline = Pipeline::new(FrameCodec::new(LIMIT), Watermarks::default());
        let mut tail = Picky { welcome: usize::MAX, ..Picky::default() };
        let mut input = Vec::new();
        for piece in pieces {
            input.extend_from_slice(&piece);
            let consumed = pipeline.read(&input, now, &mut tail);
            pipeline.read_complete(now, &mut tail);
            prop_assert!(consumed <= input.len());
            input.drain(..consumed);
            if pipeline.closing().is_some() {
                prop_assert!(pipeline.closing().unwrap().is_protocol());
                prop_assert_eq!(pipeline.read(&input, now, &mut tail), 0);
                break;
            }
            prop_assert!(input.len() < LIMIT + HEADER_LEN, "{} bytes are kept", input.len());
            let needed = pipeline.needed(&input);
            prop_assert!(input.len() < needed && needed <= LIMIT + HEADER_LEN, "{}", needed);
        }
        for frame in &tail.frames {
            let length = frame.header.length as usize;
            let too_large = matches!(frame.body, Body::TooLarge { limit: LIMIT });
            prop_assert_eq!(too_large, length > LIMIT);
            prop_assert_eq!(frame.body.as_slice().len(), if too_large { 0 } else { length });
        }
    }
}

/// Takes `welcome` frames, and then no more.
#[derive(Default)]
struct Picky {
    welcome: usize,
    frames: Vec<Frame<'static>>,
}

impl<'a> Tail<'a> for Picky {
    fn read(&mut self, frame: Frame<'a>) {
        self.welcome -= 1;
        self.frames.push(frame.into_owned());
    }

    fn accepts(&self) -> bool {
        self.welcome > 0
    }
}

/// Noise, and headers with random contents, so that the noise gets past the magic.
fn nearly_bytes() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..2 * LIMIT as u32, any::<u32>()];
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..80),
        5 => (any::<[u8; 28]>(), length).prop_map(|(middle, length)| {
            let mut bytes = [&middle[..], &length.to_be_bytes()[..]].concat();
            bytes[..2].copy_from_slice(&MAGIC);
            bytes[2] = VERSION;
            bytes
        }),
        2 => frame().prop_map(|frame| encoded(&frame)),
    ]
}

#[test]
fn a_frame_over_the_limit_arrives_before_its_payload_and_none_of_that_is_kept() {
    let header = Header { length: u32::MAX, id: 7, ..Header::new(Kind::Request) };
    let now = Instant::now();
    let mut pipeline = Pipeline::new(FrameCodec::new(LIMIT), Watermarks::default());
    let mut tail = Picky { welcome: usize::MAX, ..Picky::default() };
    assert_eq!(pipeline.read(&header.encode(), now, &mut tail), HEADER_LEN);
    assert_eq!(tail.frames, [Frame { header, body: Body::TooLarge { limit: LIMIT } }]);
    assert!(pipeline.needed(&[]) <= LIMIT + HEADER_LEN);
    for _ in 0..10 {
        assert_eq!(pipeline.read(&[b'R'; 1000], now, &mut tail), 1000);
    }
    assert_eq!(tail.frames.len(), 1);
    assert_eq!(pipeline.closing(), None);
}

#[test]
fn asking_what_is_needed_changes_nothing() {
    let long = Frame::new(Header::new(Kind::Request), &[b'x'; LIMIT + 1]);
    let bytes = [encoded(&long), encoded(&Frame::of_kind(Kind::Ping))].concat();
    let now = Instant::now();
    let mut pipeline = Pipeline::new(FrameCodec::new(LIMIT), Watermarks::default());
    let mut tail = Picky { welcome: 0, ..Picky::default() };
    assert_eq!(pipeline.read(&bytes, now, &mut tail), 0);
    pipeline.needed(&bytes);
    tail.welcome = 1;
    assert_eq!(pipeline.read(&bytes, now, &mut tail), HEADER_LEN);
    pipeline.needed(&bytes[HEADER_LEN..]);
    tail.welcome = 1;
    assert_eq!(pipeline.read(&bytes[HEADER_LEN..], now, &mut tail), bytes.len() - HEADER_LEN);
    let kinds: Vec<_> = tail.frames.iter().map(|frame| frame.header.kind).collect();
    assert_eq!(kinds, [Kind::Request, Kind::Ping]);
}

// ---- corrupt streams -----------------------------------------------------------------------

/// Counts the errors it hears of, and stops them.
struct Forgives(Arc<AtomicUsize>);

impl ChannelHandler for Forgives {
    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
        self.0.fetch_add(1, Ordering::Relaxed);
        Flow::Stop
    }
}

#[test]
fn a_corrupt_stream_closes_the_channel_even_if_a_handler_stops_the_error() {
    let good = encoded(&Frame::of_kind(Kind::Ping));
    let newer = [MAGIC[0], MAGIC[1], VERSION + 1];
    let cases: [(&str, &[u8]); 4] = [
        ("magic", b"GET / HTTP/1.1\r\n\r\n"),
        ("magic, one byte", b"G"),
        ("magic, second byte", &[MAGIC[0], b'X']),
        ("version", &newer),
    ];
    for (what, bad) in cases {
        let heard = Arc::new(AtomicUsize::new(0));
        let mut channel = channel();
        channel.change(Change::add_last(None, Forgives(heard.clone()))).unwrap();
        channel.write_inbound_bytes(&[&good, bad, &good].concat());
        assert_eq!(drain(&mut channel).len(), 1, "{what}: the frame before the damage counts");
        let cause = channel.pipeline().closing().unwrap_or_else(|| panic!("{what}: still open"));
        assert!(cause.is_protocol(), "{what}: {cause}");
        channel.write_inbound_bytes(&good);
        assert_eq!(channel.read_inbound(), None, "{what}: read on after the damage");
        assert_eq!(heard.load(Ordering::Relaxed), 1, "{what}");
    }
}

#[test]
fn what_was_written_before_a_corrupt_stream_still_leaves() {
    let mut channel = channel();
    channel.write_outbound(Frame::of_kind(Kind::GoAway)).unwrap();
    channel.write_inbound_bytes(b"GET /");
    assert!(channel.pipeline().closing().is_some());
    assert_eq!(channel.read_outbound(), Some(Frame::of_kind(Kind::GoAway)));
}

// ---- switching codecs ----------------------------------------------------------------------

/// Looks at the first two bytes to see whether the peer speaks frames or lines.
struct Detects(Option<Box<dyn Codec>>);

impl Codec for Detects {
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, RpcError> {
        match input {
            [] | [_] => Ok(Decoded::Incomplete { needed: 2 }),
            [a, b, ..] if [*a, *b] == MAGIC => {
                Ok(Decoded::Switch(self.0.take().expect("a codec hands over once")))
            }
            _ => Ok(Decoded::Switch(Box::new(Lines))),
        }
    }

    fn encode(&mut self, _: &Frame<'_>, _: &mut Output) -> Result<(), RpcError> {
        Err(RpcError::internal("not known yet"))
    }
}

fn detects() -> Detects {
    Detects(Some(Box::new(FrameCodec::new(LIMIT))))
}

/// Each line is a frame.
struct Lines;

impl Codec for Lines {
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<'a>, RpcError> {
        Ok(match input.iter().position(|byte| *byte == b'\n') {
            Some(end) => Decoded::Frame {
                frame: Frame::new(Header::new(Kind::Oneway), &input[..end]),
                consumed: end + 1,
            },
            None => Decoded::Incomplete { needed: input.len() + 1 },
        })
    }

    fn encode(&mut self, frame: &Frame<'_>, out: &mut Output) -> Result<(), RpcError> {
        out.extend_from_slice(frame.body.as_slice());
        out.extend_from_slice(b"\n");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_codec_that_steps_aside_loses_no_byte_wherever_they_are_cut(
        frames in proptest::collection::vec(frame(), 1..5),
        cuts in proptest::collection::vec(any::<Index>(), 0..10),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        let expected: Vec<_> = frames.iter().map(arriving).collect();
        let mut random = channel_with(detects());
        cut(&bytes, &cuts).into_iter().for_each(|piece| random.write_inbound_bytes(piece));
        prop_assert_eq!(drain(&mut random), expected.clone());
        for at in 0..=bytes.len() {
            let mut twice = channel_with(detects());
            twice.write_inbound_bytes(&bytes[..at]);
            twice.write_inbound_bytes(&bytes[at..]);
            prop_assert_eq!(drain(&mut twice), expected.clone(), "cut at {}", at);
        }
    }
}

#[test]
fn one_port_serves_two_protocols_under_every_cut() {
    let bytes = b"GET /\nHost: x\n\n";
    for at in 0..=bytes.len() {
        let mut channel = channel_with(detects());
        channel.write_inbound_bytes(&bytes[..at]);
        channel.write_inbound_bytes(&bytes[at..]);
        let lines: Vec<_> =
            drain(&mut channel).iter().map(|frame| frame.body.as_slice().to_vec()).collect();
        assert_eq!(lines, [&b"GET /"[..], b"Host: x", b""], "cut at {at}");
        channel.write_outbound(Frame::new(Header::new(Kind::Oneway), b"ok")).unwrap();
        assert_eq!(channel.take_output(), b"ok\n", "answers are written by the new codec");
    }
}

#[test]
fn asking_what_is_needed_does_not_lose_a_codec_that_was_to_take_over() {
    let now = Instant::now();
    let bytes = encoded(&Frame::of_kind(Kind::Ping));
    let mut pipeline = Pipeline::new(detects(), Watermarks::default());
    let mut tail = Picky::default();
    assert_eq!(pipeline.read(&bytes, now, &mut tail), 0);
    pipeline.needed(&bytes);
    tail.welcome = 1;
    assert_eq!(pipeline.read(&bytes, now, &mut tail), bytes.len());
    assert_eq!(tail.frames, [Frame::of_kind(Kind::Ping)]);
}
