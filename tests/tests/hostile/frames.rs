//! Peers that break the rules: raw sockets against a server, and a raw server against a client.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Flags, Frame, HEADER_LEN, Header, Hello, Kind};
use rpc_runtime::{
    Client, Dispatch, Result, RpcError, Server, ServerBuilder, Status, Streaming, rpc_service,
};
use rpc_tests::bystander::Bystander;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, Seen};
use rpc_tests::random::Random;
use rpc_tests::waiting::{soon, until, within};
use rpc_tests::wire::{self, RawPeer, RawServer, arguments, bare, frame, request, request_header};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);

/// A server under attack, and a client of it that must not notice.
struct Scene {
    server: Server,
    seen: Arc<Seen>,
    bystander: Bystander,
}

async fn scene() -> Scene {
    scene_with(|server| server).await
}

async fn scene_with(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Scene {
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider));
    let server = settings(server).bind("tcp://127.0.0.1:0").await.unwrap();
    let bystander = Bystander::start(server.local_uri()).await;
    Scene { server, seen, bystander }
}

impl Scene {
    async fn attacker(&self) -> RawPeer {
        RawPeer::connect(self.server.local_uri()).await
    }

    /// The attackers are gone: nothing of them may be left, and the bystander is well.
    async fn end(self) {
        until("the attackers' connections are freed", || self.server.channels().len() == 1).await;
        self.bystander.finish().await;
        until("all connections are freed", || self.server.channels().is_empty()).await;
        assert_eq!(self.seen.waiting(), 0, "calls of peers that are gone go on");
        within(3 * SECOND, "shutdown", self.server.shutdown()).await.unwrap();
    }
}

// ---- against a server ------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn junk_is_answered_with_an_error_that_says_what_is_spoken_here_and_closed() {
    let scene = scene().await;
    let mut junk: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\xda\xbb\xc2\x00".to_vec(),
        b"RX".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
    ];
    let mut random = Random::new(1);
    // Never a valid start: the first byte is none.
    junk.extend((0..20).map(|_| [b"\x01".to_vec(), random.bytes(5_000)].concat()));
    for bytes in junk {
        let mut attacker = scene.attacker().await;
        attacker.try_send(&bytes).await;
        let error = attacker.last_words().await;
        assert!(error.is_protocol() && error.message().contains("\"RP\""), "{error}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_at_any_byte_of_a_frame_leaves_nothing_behind() {
    let scene = scene().await;
    let whole = request(7, "wait", &[0_u8; 0]);
    assert!(whole.len() > HEADER_LEN);
    for cut in 0..=whole.len() {
        let mut attacker = scene.attacker().await;
        attacker.send(&whole[..cut]).await;
        drop(attacker);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cuts_only_its_own_half_still_gets_no_foothold() {
    let scene = scene().await;
    let whole = request(7, "add", &(1, 2));
    for cut in [0, 1, HEADER_LEN - 1, HEADER_LEN, whole.len() - 1] {
        let mut attacker = scene.attacker().await;
        attacker.send(&whole[..cut]).await;
        attacker.stream().shutdown().await.unwrap();
        assert!(attacker.next().await.is_none(), "half a frame was answered");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_byte_by_byte_is_answered() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    for byte in request(7, "add", &(1, 2)) {
        attacker.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(attacker.answer(7).await.value::<i64>(), 3);
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_over_long_request_fails_alone_and_the_stream_goes_on_behind_it() {
    for (limit, scene) in
        [(1_000, scene_with(|server| server.max_payload(1_000)).await), (8 << 20, scene().await)]
    {
        let mut attacker = scene.attacker().await;
        let body = vec![7; limit + 1];
        let long = frame(request_header(1, "echo"), &body);
        // The next request is there already when the first one is discarded.
        attacker.send(&[long, request(2, "add", &(1, 2))].concat()).await;
        let refused = attacker.answer(1).await;
        let error = refused.error();
        assert!(error.is_too_large() && refused.is_unexecuted(), "{error:?}");
        for number in [limit, limit + 1] {
            assert!(error.message().contains(&format!("{number} bytes")), "{error}");
        }
        assert_eq!(attacker.answer(2).await.value::<i64>(), 3);
        attacker.check().await;
        drop(attacker);
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_payload_of_4_gib_takes_no_memory_and_is_refused_from_its_header() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let header = Header { length: u32::MAX, ..request_header(1, "echo") };
    attacker.send(&header.encode()).await;
    let error = attacker.answer(1).await.error();
    assert!(error.is_too_large() && error.message().contains(&u32::MAX.to_string()), "{error}");
    // What belongs to it is discarded; none of it is taken for a frame.
    let inside = request(2, "add", &(1, 2));
    for _ in 0..1_000 {
        attacker.send(&inside.repeat(100)).await;
    }
    let nothing = tokio::time::timeout(SECOND / 10, attacker.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_payloads_that_never_come_take_no_memory() {
    let scene = scene().await;
    let before = resident_bytes();
    let mut attackers = Vec::new();
    for _ in 0..100 {
        let mut attacker = scene.attacker().await;
        let header = Header { length: 8 << 20, ..request_header(1, "echo") };
        attacker.send(&header.encode()).await;
        attackers.push(attacker);
    }
    until("all are connected", || scene.server.channels().len() == 101).await;
    // 800 MiB are announced. Other tests run in this process, too, so this is no exact measure.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "{} MiB more", grown >> 20);
    drop(attackers);
    scene.end().await;
}

/// Memory of this process that is really there.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_answered_with_both_versions_and_closed() {
    let scene = scene().await;
    for version in [0, 2, 9, 255] {
        for length in [3, HEADER_LEN] {
            let mut bytes = request(1, "add", &(1, 2));
            bytes[2] = version;
            let mut attacker = scene.attacker().await;
            attacker.send(&bytes[..length]).await;
            let error = attacker.last_words().await;
            assert!(error.is_protocol(), "{error:?}");
            for version in [format!("version {version}"), "version 1".into()] {
                assert!(error.message().contains(&version), "{error}");
            }
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_an_unknown_kind_is_answered_and_the_connection_goes_on() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    for kind in [0, 99, 254, 255] {
        let header = Header { id: 5, ..Header::new(Kind::from_wire(kind)) };
        attacker.send(&frame(header, b"whatever")).await;
        let answer = attacker.next().await.unwrap();
        assert_eq!((answer.header.kind, answer.header.id), (Kind::Error, 5));
        let error = answer.error();
        assert!(error.is_protocol() && error.message().contains(&format!("kind {kind} ")));
        attacker.check().await;
    }
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_flags_that_are_not_understood_is_refused_and_not_misread() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let unknown =
        (0..16).map(|bit| 1 << bit).filter(|bit| !Flags::from_bits(*bit).are_understood());
    for bits in unknown {
        let header = Header { flags: Flags::from_bits(bits), ..request_header(3, "add") };
        attacker.send(&frame(header, &arguments(&(1, 2)))).await;
        let answer = attacker.answer(3).await;
        let error = answer.error();
        assert!(error.is_protocol() && answer.is_unexecuted(), "{bits:#b}: {error:?}");
        assert!(error.message().contains(&format!("{bits:#b}")), "{error}");
    }
    attacker.check().await;
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_the_wrong_direction_or_out_of_turn_do_no_harm() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let hello = arguments(&Hello::default());
    for harmless in [
        wire::ok(1, &3),
        wire::ok(0, &3),
        frame(Header { status: 60, ..Header::response(u64::MAX, Status::Internal) }, b"junk"),
        bare(Kind::Cancel, 0),
        bare(Kind::Cancel, 77),
        bare(Kind::Pong, 1),
        frame(Header::new(Kind::Hello), &hello),
        frame(Header { id: 9, ..Header::new(Kind::Hello) }, &hello),
        frame(Header { id: 8, status: 70, ..Header::new(Kind::Error) }, b"about nothing"),
        frame(Header { id: 3, ..Header::new(Kind::Cancel) }, &[1; 1000]),
    ] {
        attacker.send(&harmless).await;
        attacker.check().await;
    }
    attacker.send(&bare(Kind::Ping, 4)).await;
    let pong = attacker.next().await.unwrap();
    assert_eq!((pong.header.kind, pong.header.id), (Kind::Pong, 4));
    drop(attacker);

    let mut attacker = scene.attacker().await;
    attacker.send(&frame(Header::new(Kind::Hello), b"\xc1 is no MessagePack")).await;
    let error = attacker.last_words().await;
    assert!(error.is_protocol() && error.message().contains("hello"), "{error:?}");

    // A peer says so before it closes; whether it does is its own affair.
    let mut attacker = scene.attacker().await;
    attacker.send(&frame(Header { status: 70, ..Header::new(Kind::Error) }, b"?")).await;
    attacker.check().await;
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_goodbye_gets_the_answers_it_waits_for() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let goodbye = [request(1, "sleep", &(50,)), bare(Kind::GoAway, 0)].concat();
    attacker.send(&goodbye).await;
    assert_eq!(attacker.answer(1).await.value::<u64>(), 50);
    assert!(attacker.next().await.is_none());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_49_days_is_kept_and_one_of_a_millisecond_ends_the_call() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let with_deadline = |id, name: &str, deadline_ms, body: &[u8]| {
        frame(Header { deadline_ms, ..request_header(id, name) }, body)
    };
    attacker.send(&with_deadline(1, "remaining", u32::MAX, &arguments(&[0_u8; 0]))).await;
    let left = attacker.answer(1).await.value::<Option<u64>>().unwrap();
    assert!(left > u64::from(u32::MAX) - 60_000 && left <= u64::from(u32::MAX), "{left}");
    attacker.send(&with_deadline(2, "sleep", u32::MAX, &arguments(&(20,)))).await;
    assert_eq!(attacker.answer(2).await.value::<u64>(), 20);

    attacker.send(&with_deadline(3, "wait", 1, &arguments(&[0_u8; 0]))).await;
    let started = Instant::now();
    let error = attacker.answer(3).await.error();
    assert!(error.is_timeout(), "{error:?}");
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
    assert_eq!(scene.seen.dropped(), 1, "the method goes on");

    attacker.send(&with_deadline(4, "remaining", 0, &arguments(&[0_u8; 0]))).await;
    assert_eq!(attacker.answer(4).await.value::<Option<u64>>(), None);
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn id_0_and_ids_used_twice_are_answered_each_time_and_free_everything() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    attacker.send(&request(0, "add", &(1, 2)).repeat(2)).await;
    attacker.send(&request(5, "sleep", &(30,)).repeat(3)).await;
    let mut answers = [0; 6];
    for _ in 0..5 {
        let answer = attacker.next().await.unwrap();
        assert_eq!((answer.header.kind, answer.header.status), (Kind::Response, 0));
        answers[answer.header.id as usize] += 1;
    }
    assert_eq!((answers[0], answers[5]), (2, 3));

    attacker.send(&request(6, "wait", &[0_u8; 0]).repeat(3)).await;
    until("three calls wait", || scene.seen.waiting() == 3).await;
    attacker.send(&bare(Kind::Cancel, 6).repeat(3)).await;
    until("a cancel ends at least the last of them", || scene.seen.waiting() < 3).await;
    attacker.check().await;
    drop(attacker);
    until("the others end with the connection", || scene.seen.waiting() == 0).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_metadata_fails_that_request_only() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let section = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let map = arguments(&std::collections::BTreeMap::from([("tenant", "acme")]));
    let good = section(map.len() as u32, &[map.clone(), arguments(&(1, 2))].concat());
    for (damaged, too_large) in [
        (vec![], false),
        (vec![0, 0, 0], false),
        (section(0, &arguments(&(1, 2))), false),
        (section(100, &map), false),
        (section(map.len() as u32 - 1, &map), false),
        (section(3, b"\xc1\xc1\xc1"), false),
        (section(1, &[0x91]), false),
        (section(5, &[0xdf, 0xff, 0xff, 0xff, 0xff]), false),
        (section(16_000, &[0x91; 16_000]), false),
        (section((16 << 10) + 1, &[0x80; 20_000]), true),
        (section(u32::MAX, &map), true),
    ] {
        let header = Header { flags: Flags::METADATA, ..request_header(1, "add") };
        attacker.send(&frame(header, &damaged)).await;
        let answer = attacker.answer(1).await;
        let error = answer.error();
        assert!(error.is_decode() || too_large && error.is_too_large(), "{error:?}");
        assert!(error.message().contains("metadata") && answer.is_unexecuted(), "{error:?}");
        attacker.send(&frame(header, &good)).await;
        assert_eq!(attacker.answer(1).await.value::<i64>(), 3);
    }
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_do_not_decode_fail_that_request_only_and_are_named() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    for (name, body, named) in [
        ("add", arguments(&("one", 2)), "argument `a: i64`"),
        ("add", arguments(&(1,)), "argument `b: i64`"),
        ("add", vec![], ""),
        ("add", vec![0xc1], ""),
        ("add", vec![0x92, 0xd3, 0, 0], "argument `a: i64`"),
        ("add", vec![0xdd, 0xff, 0xff, 0xff, 0xff], "argument `a: i64`"),
        ("add", arguments(&"no array"), ""),
        ("echo", vec![0x91, 0xdb, 0xff, 0xff, 0xff, 0xff], "argument `text: String`"),
        ("echo", vec![0x91, 0xa2, 0xc3, 0x28], "argument `text: String`"),
        ("echo", vec![0x91; 1 << 20], "argument `text: String`"),
        ("depth", [vec![0x91], b"\x81\xa5inner".repeat(100_000)].concat(), "argument `value"),
        ("depth", vec![0x91; 1 << 20], "argument `value"),
        ("who", vec![0x91; 1 << 20], ""),
        ("who", vec![0xdf, 0xff, 0xff, 0xff, 0xff], ""),
    ] {
        attacker.send(&frame(request_header(1, name), &body)).await;
        let answer = attacker.answer(1).await;
        let error = answer.error();
        assert!(error.is_decode() && answer.is_unexecuted(), "{name} {body:.20?}: {error:?}");
        assert!(error.message().contains(named), "{name} {body:.20?}: {error}");
        attacker.check().await;
    }
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_payloads_behind_valid_headers_are_each_answered() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    let mut random = Random::new(2);
    let methods = ["add", "echo", "sleep", "depth", "fail", "remaining", "no such method"];
    let mut expected = 0_u64;
    for round in 0..20 {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            let name = methods[random.below(methods.len() as u64) as usize];
            let mut header = match name {
                "no such method" => Header { method: random.any(), ..request_header(0, "add") },
                _ => request_header(0, name),
            };
            header.id = expected;
            header.flags = Flags::from_bits(random.any() as u16 & random.any() as u16);
            header.status = random.any() as u16;
            // Random arguments may well ask for a long sleep.
            header.deadline_ms = 1 + random.below(50) as u32;
            bytes.extend(frame(header, &random.bytes(if round % 2 == 0 { 20 } else { 300 })));
            expected += 1;
        }
        attacker.send(&bytes).await;
    }
    let mut answered = std::collections::BTreeSet::new();
    while (answered.len() as u64) < expected {
        let answer = attacker.next().await.unwrap();
        if answer.header.kind == Kind::Cancel {
            // The flags announced a stream that the method does not take.
            continue;
        }
        assert_eq!(answer.header.kind, Kind::Response, "{answer:?}");
        assert!(answered.insert(answer.header.id), "answered twice: {answer:?}");
    }
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_frames_of_every_kind_end_at_worst_their_own_connection() {
    let scene = scene().await;
    let mut random = Random::new(3);
    for _ in 0..200 {
        let mut attacker = scene.attacker().await;
        let mut bytes = Vec::new();
        for _ in 0..random.below(20) {
            let header = Header {
                kind: Kind::from_wire(random.below(16) as u8),
                flags: Flags::from_bits(random.any() as u16),
                status: random.any() as u16,
                id: random.below(4),
                method: if random.below(2) == 0 {
                    rpc_tests::probe::method("echo").id()
                } else {
                    random.any()
                },
                deadline_ms: random.any() as u32,
                length: 0,
            };
            bytes.extend(frame(header, &random.bytes(100)));
        }
        // And then something that is no frame at all.
        bytes.extend(random.bytes(200));
        attacker.try_send(&bytes).await;
        if random.below(2) == 0 {
            let _ = attacker.stream().shutdown().await;
            within(5 * SECOND, "the end of the connection", attacker.drain()).await;
        }
    }
    scene.end().await;
}

/// Records the most bytes that ever waited to be written.
struct Gauge(Arc<AtomicUsize>);

impl ChannelHandler for Gauge {
    fn write(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        let bytes = ctx.pending_bytes() + HEADER_LEN + frame.body.as_slice().len();
        self.0.fetch_max(bytes, Ordering::SeqCst);
        Ok(Flow::Next)
    }
}

fn gauge(max: &Arc<AtomicUsize>) -> impl Fn() -> Vec<Change> + Send + Sync + 'static {
    let max = Arc::clone(max);
    // The first handler: the last one on the way out, so it sees the other handlers' writes, too.
    move || vec![Change::add_first("gauge", Gauge(Arc::clone(&max)))]
}

/// Sends `bytes` again and again until nothing fits any more for a while, and says how often.
async fn stuff(attacker: &mut RawPeer, bytes: &[u8], most: usize) -> usize {
    for sent in 0..most {
        let write = attacker.stream().write_all(bytes);
        if tokio::time::timeout(SECOND / 2, write).await.is_err() {
            return sent;
        }
    }
    panic!("the server took {most} × {} bytes from a peer that reads no answers", bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_its_answers_is_no_longer_read_itself() {
    const IN_WORK: usize = 16;
    const ANSWER: usize = 64 << 10;
    for dispatch in [Dispatch::Inline, Dispatch::Spawn] {
        let max = Arc::<AtomicUsize>::default();
        let scene = scene_with(|server| {
            server.pipeline(gauge(&max)).max_concurrent_requests(IN_WORK).dispatch(dispatch)
        })
        .await;
        let mut attacker = scene.attacker().await;
        let requests: Vec<u8> = (0..100).flat_map(|id| request(id, "make", &(ANSWER,))).collect();
        stuff(&mut attacker, &requests, 100_000).await;
        // The high watermark was passed once, by no more than was in work then.
        let most = max.load(Ordering::SeqCst);
        let bound = (64 << 10) + (IN_WORK + 1) * (ANSWER + 2 * HEADER_LEN);
        assert!(most > 64 << 10, "{dispatch:?}: {most} bytes is no congestion");
        assert!(most <= bound, "{dispatch:?}: {most} bytes waited to be written, not {bound}");
        drop(attacker);
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_small_requests_for_large_answers_do_not_fill_the_memory() {
    const ANSWER: usize = 4 << 20;
    let max = Arc::<AtomicUsize>::default();
    let scene = scene_with(|server| server.pipeline(gauge(&max))).await;
    let mut attacker = scene.attacker().await;
    let requests: Vec<u8> = (1..=128).flat_map(|id| request(id, "make", &(ANSWER,))).collect();
    attacker.send(&requests).await;
    until("it is congested", || max.load(Ordering::SeqCst) > ANSWER).await;
    tokio::time::sleep(SECOND / 2).await;
    let most = max.load(Ordering::SeqCst);
    assert!(most < 10 * ANSWER, "{} MiB wait to be written", most >> 20);
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_that_are_never_read_do_not_fill_the_servers_memory() {
    let max = Arc::<AtomicUsize>::default();
    let scene = scene_with(|server| server.pipeline(gauge(&max))).await;
    let mut attacker = scene.attacker().await;
    let pings = bare(Kind::Ping, 1).repeat(1_000);
    for _ in 0..1_000 {
        attacker.send(&pings).await;
    }
    let most = max.load(Ordering::SeqCst);
    assert!((HEADER_LEN..64 << 10).contains(&most), "{most} bytes of pongs");
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_late_gets_every_answer() {
    let scene = scene_with(|server| server.max_concurrent_requests(16)).await;
    let mut attacker = scene.attacker().await;
    let count = 500;
    let requests: Vec<u8> = (0..count).flat_map(|id| request(id, "make", &(100_000,))).collect();
    attacker.send(&requests).await;
    for _ in 0..count {
        let answer = attacker.next().await.unwrap();
        assert_eq!(answer.value::<String>().len(), 100_000);
    }
    attacker.check().await;
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_calls_of_a_peer_that_goes_away_are_dropped() {
    let scene = scene().await;
    let mut attacker = scene.attacker().await;
    for id in 0..500 {
        attacker.send(&request(id, "wait", &[0_u8; 0])).await;
    }
    until("all calls wait", || scene.seen.waiting() == 500).await;
    drop(attacker);
    until("all calls are dropped", || scene.seen.dropped() == 500).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_do_not_keep_others_from_connecting() {
    const SILENT: usize = 300;
    let scene = scene().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(scene.attacker().await);
    }
    until("all are accepted", || scene.server.channels().len() == SILENT + 1).await;
    Bystander::start(scene.server.local_uri()).await.finish().await;
    until("only they are left", || scene.server.channels().len() == SILENT + 1).await;
    drop(silent);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_connections_that_say_nothing_or_half_a_frame() {
    let scene = scene().await;
    let mut attackers = Vec::new();
    for n in 0..100 {
        let mut attacker = scene.attacker().await;
        attacker.send(&request(1, "wait", &[0_u8; 0])[..n % HEADER_LEN]).await;
        attackers.push(attacker);
    }
    until("all are accepted", || scene.server.channels().len() == 101).await;
    scene.bystander.finish().await;
    let started = Instant::now();
    soon("shutdown", scene.server.shutdown()).await.unwrap();
    // A second is left to requests that are on their way.
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    for mut attacker in attackers {
        let farewell = attacker.next().await.unwrap();
        assert_eq!(farewell.header.kind, Kind::GoAway);
        assert!(attacker.next().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_keeps_asking_cannot_hold_up_a_shutdown_for_longer_than_the_budget() {
    let scene = scene_with(|server| server.drain_timeout(2 * SECOND)).await;
    let mut attacker = scene.attacker().await;
    scene.bystander.finish().await;
    let asking = tokio::spawn(async move {
        // Until the connection is closed.
        while attacker.stream().write_all(&request(1, "add", &(1, 2))).await.is_ok() {
            let answer = attacker.next().await;
            if answer.is_none() {
                return;
            }
        }
    });
    let started = Instant::now();
    soon("shutdown", scene.server.shutdown()).await.unwrap();
    assert!(started.elapsed() < 4 * SECOND, "{:?}", started.elapsed());
    soon("the end of the connection", asking).await.unwrap();
}

// ---- against a client ------------------------------------------------------------------------

/// The error of a call to a server that does as the script says. It is bounded in time.
async fn call_to<F>(script: impl Fn(RawPeer) -> F + Send + Sync + 'static) -> RpcError
where
    F: Future<Output = ()> + Send + 'static,
{
    let server = RawServer::start(script).await;
    let started = Instant::now();
    let call = async {
        let probe = ProbeClient::connect(server.uri()).await.unwrap().with_timeout(5 * SECOND);
        probe.add(1, 2).await
    };
    let error = soon("the call", call).await.unwrap_err();
    assert!(started.elapsed() < 4 * SECOND, "{:?}: {error}", started.elapsed());
    assert!(error.to_string().contains("e2e.Probe/add at tcp://127.0.0.1:"), "{error}");
    error
}

/// The error of connecting to a server that does as the script says, and says no hello by itself.
async fn connecting_to<F>(script: impl Fn(RawPeer) -> F + Send + Sync + 'static) -> RpcError
where
    F: Future<Output = ()> + Send + 'static,
{
    let server = RawServer::start_rude(script).await;
    let client = Client::builder().connect_timeout(SECOND / 2);
    let error = soon("connecting", client.connect(server.uri())).await.unwrap_err();
    assert!(error.is_safe_to_retry(), "nothing was sent: {error:?}");
    assert!(error.to_string().contains("tcp://127.0.0.1:"), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_server_that_did_not_greet() {
    let silent = connecting_to(|mut peer| async move { peer.drain().await }).await;
    assert!(silent.is_unavailable() && silent.message().contains("no hello"), "{silent:?}");
    let closes = connecting_to(|peer| async move { drop(peer) }).await;
    assert!(closes.is_unavailable() && closes.message().contains("no hello"), "{closes:?}");

    // The operating system has taken the connection, and then nobody does.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let connecting = Client::builder().connect_timeout(SECOND / 2).connect(uri);
    let error = soon("the attempt", connecting).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    assert!(error.message().contains("no hello"), "{error:?}");
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_another_protocol_is_found_out_at_once() {
    for junk in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"220 mail ready\r\n", &[0; 1000]] {
        let error = connecting_to(move |mut peer| async move {
            peer.send(junk).await;
            peer.drain().await;
        })
        .await;
        assert!(error.is_protocol() && error.message().contains("\"RP\""), "{error:?}");
        // The same in the midst of things.
        let error = call_to(move |mut peer| async move {
            peer.requested().await;
            peer.send(junk).await;
            peer.drain().await;
        })
        .await;
        assert!(error.is_protocol() && error.message().contains("\"RP\""), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_version_is_reported_with_both_versions() {
    let error = connecting_to(|mut peer| async move {
        let mut bytes = bare(Kind::Hello, 0);
        bytes[2] = 3;
        peer.send(&bytes).await;
        peer.drain().await;
    })
    .await;
    assert!(error.is_protocol(), "{error:?}");
    assert!(error.message().contains("version 3") && error.message().contains("version 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_an_unknown_id_reaches_nobody() {
    let server = RawServer::start(|mut peer| async move {
        while let Some(frame) = peer.requested().await {
            let id = frame.header.id;
            for wrong in [0, id + 1, id ^ 1 << 32, u64::MAX, id.wrapping_sub(1 << 32)] {
                peer.send(&wire::ok(wrong, &-1)).await;
            }
            peer.send(&wire::ok(id, &3)).await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for _ in 0..50 {
        assert_eq!(soon("the call", probe.add(1, 2)).await, Ok(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_to_the_same_call_is_not_taken_for_the_next_call() {
    let server = RawServer::start(|mut peer| async move {
        let mut n = 0;
        while let Some(frame) = peer.requested().await {
            let id = frame.header.id;
            n += 1;
            let again = wire::ok(id, &-n);
            peer.send(&[wire::ok(id, &n), again.clone(), again].concat()).await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for n in 1..100 {
        assert_eq!(soon("the call", probe.add(1, 2)).await, Ok(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_answer_fails_its_call_only_with_limit_size_and_method() {
    let server = RawServer::start(|mut peer| async move {
        // Both calls wait when the large answer comes.
        let first = peer.requested().await.unwrap().header;
        let second = peer.requested().await.unwrap().header;
        peer.send(&frame(Header::response(first.id, Status::Ok), &[0; 5_000])).await;
        peer.send(&wire::ok(second.id, &3)).await;
        while let Some(frame) = peer.requested().await {
            peer.send(&wire::ok(frame.header.id, &4)).await;
        }
    })
    .await;
    let client = Client::builder().max_payload(1_000).connect(server.uri()).await.unwrap();
    let probe = ProbeClient::new(client);
    let (first, second) =
        soon("both calls", async { tokio::join!(probe.echo("x".into()), probe.add(1, 2)) }).await;
    let error = first.unwrap_err();
    assert!(error.is_too_large() && !error.is_safe_to_retry(), "{error:?}");
    for word in ["5000 bytes", "1000 bytes", "e2e.Probe/echo", &server.uri()] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert_eq!(second, Ok(3));
    assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_announced_with_4_gib_fails_its_call_at_once() {
    let error = call_to(|mut peer| async move {
        let id = peer.requested().await.unwrap().header.id;
        let header = Header { length: u32::MAX, ..Header::response(id, Status::Ok) };
        peer.send(&header.encode()).await;
        peer.drain().await;
    })
    .await;
    assert!(error.is_too_large() && error.message().contains(&u32::MAX.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_decode_fails_its_call_only() {
    let server = RawServer::start(|mut peer| async move {
        let mut damaged = [
            arguments(&"no number"),
            vec![],
            vec![0xc1],
            vec![0x91; 1 << 20],
            vec![0xdf, 0xff, 0xff, 0xff, 0xff],
            vec![0xdb, 0xff, 0xff, 0xff, 0xff],
        ]
        .into_iter();
        while let Some(request) = peer.requested().await {
            let header = Header::response(request.header.id, Status::Ok);
            let body = damaged.next().unwrap_or_else(|| arguments(&3));
            peer.send(&frame(header, &body)).await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for _ in 0..6 {
        let error = soon("the call", probe.add(1, 2)).await.unwrap_err();
        assert!(error.is_decode() && !error.is_safe_to_retry(), "{error:?}");
        assert!(error.to_string().contains("e2e.Probe/add"), "{error}");
    }
    assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_and_error_payloads_that_make_no_sense_are_errors_of_their_calls() {
    let mut random = Random::new(4);
    let cases: Vec<(u16, u16, Vec<u8>)> = (0..300)
        .map(|n| (n, random.any() as u16 & random.any() as u16, random.bytes(60)))
        .collect();
    let answers = Arc::new(cases);
    let script = Arc::clone(&answers);
    let server = RawServer::start(move |mut peer| {
        let script = Arc::clone(&script);
        async move {
            for (status, flags, body) in script.iter() {
                let Some(request) = peer.requested().await else { return };
                let mut header = Header::response(request.header.id, Status::Ok);
                header.status = *status;
                header.flags = Flags::from_bits(*flags);
                peer.send(&frame(header, body)).await;
            }
            peer.drain().await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    for (status, flags, body) in answers.iter() {
        let result = soon("the call", probe.add(1, 2)).await;
        // Status 0 with a payload that happens to be a number is an answer.
        assert!(result.is_err() || *status == 0, "{status} {flags:#b} {body:?}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_after_its_hello_is_unavailable_and_not_tried_for_ever() {
    let accepted = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&accepted);
    let error = call_to(move |peer| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { drop(peer) }
    })
    .await;
    assert!(error.is_unavailable(), "{error:?}");
    let accepted = accepted.load(Ordering::SeqCst);
    assert!((1..=5).contains(&accepted), "{accepted} connections for one call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_server_that_never_answers_ends_within_its_deadline() {
    // One reads its requests, the other does not even do that.
    let reading = RawServer::start(|mut peer| async move { peer.drain().await }).await;
    let deaf = RawServer::start(|peer| async move {
        let _open = peer;
        std::future::pending().await
    })
    .await;
    for server in [&reading, &deaf] {
        let probe = ProbeClient::connect(server.uri()).await.unwrap();
        let probe = probe.with_timeout(SECOND / 5);
        for _ in 0..3 {
            let started = Instant::now();
            let error = soon("the call", probe.add(1, 2)).await.unwrap_err();
            let took = started.elapsed();
            assert!(error.is_timeout() && !error.is_safe_to_retry(), "{error:?}");
            assert!(took >= SECOND / 5 && took < 2 * SECOND, "{took:?}");
        }
    }
    // As much as the sockets' buffers take, and more.
    let probe = ProbeClient::connect(deaf.uri()).await.unwrap().with_timeout(SECOND / 2);
    let text = "x".repeat(4 << 20);
    let calls = (0..8).map(|_| probe.echo(text.clone()));
    let started = Instant::now();
    let results = soon("all calls", futures::future::join_all(calls)).await;
    assert!(results.iter().all(|result| result.as_ref().is_err_and(RpcError::is_timeout)));
    assert!(
        results.iter().any(|result| result.as_ref().is_err_and(RpcError::is_safe_to_retry)),
        "those that waited for room were never sent: {results:?}"
    );
    assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_and_then_the_end_is_unavailable_and_no_answer() {
    let whole = wire::ok(0, &3).len();
    for cut in [1, 2, HEADER_LEN - 1, HEADER_LEN, whole - 1] {
        let error = call_to(move |mut peer| async move {
            let Some(request) = peer.requested().await else { return };
            let answer = wire::ok(request.header.id, &3);
            if answer.len() > cut {
                peer.send(&answer[..cut]).await;
            }
        })
        .await;
        assert!(error.is_unavailable(), "{error:?}");
        assert!(!error.is_safe_to_retry(), "the server may have run it: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_its_client_is_told_that_nothing_is_provided() {
    let server = RawServer::start(|mut peer| async move {
        while let Some(frame) = peer.requested().await {
            peer.send(&request(7, "add", &(1, 2))).await;
            assert_eq!(peer.answer(7).await.header.status, Status::NotFound.to_wire());
            peer.send(&wire::ok(frame.header.id, &3)).await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    assert_eq!(soon("the call", probe.add(1, 2)).await, Ok(3));
    assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_frame_fails_the_call_it_is_about_or_all_if_it_is_about_none() {
    let body = arguments(&RpcError::internal("made up"));
    for (flags, is_unexecuted) in [(Flags::UNEXECUTED, true), (Flags::default(), false)] {
        let error = about_one(flags, body.clone()).await;
        assert!(error.message().contains("made up"), "{error:?}");
        // The kind of the frame does not say that the method did not run.
        assert_eq!(error.is_safe_to_retry(), is_unexecuted, "{error:?}");
    }

    let error = call_to(move |mut peer| {
        let body = body.clone();
        async move {
            peer.requested().await;
            let header = Header { status: 60, ..Header::new(Kind::Error) };
            peer.send(&frame(header, &body)).await;
        }
    })
    .await;
    assert!(error.message().contains("made up"), "{error:?}");
}

/// What a call fails with that an error frame with these flags is about. The next one succeeds.
async fn about_one(flags: Flags, body: Vec<u8>) -> RpcError {
    let server = RawServer::start(move |mut peer| {
        let body = body.clone();
        async move {
            let id = peer.requested().await.unwrap().header.id;
            let header = Header { id, status: 60, flags, ..Header::new(Kind::Error) };
            peer.send(&frame(header, &body)).await;
            let id = peer.requested().await.unwrap().header.id;
            peer.send(&wire::ok(id, &3)).await;
            peer.drain().await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    let error = soon("the call", probe.add(1, 2)).await.unwrap_err();
    assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(3));
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_goodbye_on_every_connection_is_not_tried_for_ever() {
    let accepted = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&accepted);
    let server = RawServer::start(move |mut peer| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            peer.send(&bare(Kind::GoAway, 0)).await;
            peer.drain().await;
        }
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap().with_timeout(SECOND / 5);
    for _ in 0..5 {
        let error = soon("the call", probe.add(1, 2)).await.unwrap_err();
        assert!(error.is_unavailable() || error.is_timeout(), "{error:?}");
    }
    let accepted = accepted.load(Ordering::SeqCst);
    // At most four for a call, and some that were gone before it got hold of them.
    assert!(accepted <= 200, "{accepted} connections for five calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_of_a_server_that_reads_no_pongs_do_not_fill_the_clients_memory() {
    let server = RawServer::start(|mut peer| async move {
        let pings = bare(Kind::Ping, 1).repeat(1_000);
        while peer.stream().write_all(&pings).await.is_ok() {}
    })
    .await;
    let max = Arc::<AtomicUsize>::default();
    let client = Client::builder().pipeline(gauge(&max)).connect(server.uri()).await.unwrap();
    let probe = ProbeClient::new(client).with_timeout(2 * SECOND);
    // However it ends: the client has had two seconds to fill its memory.
    let _ = soon("the call", probe.add(1, 2)).await;
    let most = max.load(Ordering::SeqCst);
    assert!((HEADER_LEN..64 << 10).contains(&most), "{most} bytes of pongs");
}

// ---- streams ---------------------------------------------------------------------------------

#[rpc_service(name = "e2e.Flows")]
trait Flows {
    /// Texts of a thousand bytes without end.
    async fn endless(&self) -> Result<Streaming<String>>;
    /// Waits until it is told to go on, then takes items to their end: how many, and the error.
    async fn take_late(&self, items: Streaming<String>) -> Result<(usize, String)>;
}

/// What the two ends of a stream may have under way unasked: 256 KiB, and one item on top.
const WINDOW: usize = 256 << 10;

#[derive(Clone)]
struct Source {
    /// Sources of `endless` that are not dropped.
    open: Arc<()>,
    taking: Arc<AtomicUsize>,
    go_on: Arc<Semaphore>,
}

impl Flows for Source {
    async fn endless(&self) -> Result<Streaming<String>> {
        let open = Arc::clone(&self.open);
        Ok(Streaming::from_items(std::iter::repeat_with(move || {
            let _open = &open;
            "s".repeat(1_000)
        })))
    }

    async fn take_late(&self, mut items: Streaming<String>) -> Result<(usize, String)> {
        self.taking.fetch_add(1, Ordering::SeqCst);
        let _permit = self.go_on.acquire().await;
        let mut count = 0;
        loop {
            match items.next().await {
                Some(Ok(_)) => count += 1,
                Some(Err(error)) => return Ok((count, error.to_string())),
                None => return Ok((count, String::new())),
            }
        }
    }
}

async fn flows(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Scene, Source) {
    let source =
        Source { open: Arc::default(), taking: Arc::default(), go_on: Arc::new(Semaphore::new(0)) };
    let service = FlowsServer::new(source.clone());
    (scene_with(|server| settings(server.provide(service))).await, source)
}

fn flow_request(id: u64, name: &str, flags: Flags) -> Vec<u8> {
    let method = FLOWS_DESCRIPTOR.methods().iter().find(|method| method.name() == name).unwrap();
    let header = Header {
        id,
        flags,
        method: method.id(),
        deadline_ms: 30_000,
        ..Header::new(Kind::Request)
    };
    // The items stand for themselves behind the request.
    frame(header, if name == "endless" { &[0x90] } else { &[0x91, 0xc0] })
}

fn item(id: u64, bytes: usize) -> Vec<u8> {
    let header = Header { id, ..Header::new(Kind::StreamData) };
    frame(header, &arguments(&"i".repeat(bytes)))
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_streams_that_there_are_not_do_no_harm() {
    let (scene, _) = flows(|server| server).await;
    let mut attacker = scene.attacker().await;
    for kind in [Kind::StreamData, Kind::StreamCredit, Kind::StreamEnd] {
        for id in [0, 7, u64::MAX] {
            for body in [&[][..], &[0xff; 4], &[0xc1; 100]] {
                attacker.send(&frame(Header { id, status: 60, ..Header::new(kind) }, body)).await;
            }
        }
        attacker.check().await;
    }
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_beyond_the_credit_end_their_stream_and_are_not_kept() {
    const ITEM: usize = 10_000;
    let (scene, source) = flows(|server| server).await;
    let mut attacker = scene.attacker().await;
    attacker.send(&flow_request(1, "take_late", Flags::STREAM)).await;
    for _ in 0..2_000 {
        attacker.send(&item(1, ITEM)).await;
    }
    // They have all been looked at once this is answered.
    attacker.send(&request(2, "add", &(1, 2))).await;
    while attacker.next().await.unwrap().header.id != 2 {}
    source.go_on.add_permits(1);
    let mut answer = attacker.next().await.unwrap();
    while answer.header.kind == Kind::Cancel {
        // It is told to stop, once or more.
        answer = attacker.next().await.unwrap();
    }
    let (count, error) = answer.value::<(usize, String)>();
    assert!(error.contains("granted"), "{error}");
    assert!(count > 10 && count <= WINDOW / ITEM + 1, "{count} items of {ITEM} bytes were kept");
    attacker.check().await;
    drop(attacker);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_items_are_never_granted_more_room_stops_at_the_window() {
    let (scene, source) = flows(|server| server).await;
    let mut attacker = scene.attacker().await;
    attacker.send(&flow_request(1, "endless", Flags::default())).await;
    let answer = attacker.answer(1).await;
    assert!(answer.header.flags.contains(Flags::STREAM));
    let mut received = 0;
    loop {
        // The answer to a ping comes through between and behind the items.
        attacker.send(&bare(Kind::Ping, 2)).await;
        let mut items = 0;
        loop {
            let frame = attacker.next().await.unwrap();
            if frame.header.kind == Kind::Pong {
                break;
            }
            assert_eq!(frame.header.kind, Kind::StreamData, "{frame:?}");
            items += HEADER_LEN + frame.body.len();
        }
        received += items;
        if items == 0 && received >= WINDOW {
            break;
        }
        assert!(received < 2 * WINDOW, "{received} bytes without being granted");
    }
    assert!(received <= WINDOW + 2_000, "{received} bytes without being granted");
    attacker.check().await;
    drop(attacker);
    until("the source is dropped", || Arc::strong_count(&source.open) == 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_credit_of_a_peer_that_reads_nothing_does_not_fill_the_memory() {
    let max = Arc::<AtomicUsize>::default();
    let (scene, source) = flows(|server| server.pipeline(gauge(&max))).await;
    let mut attacker = scene.attacker().await;
    for id in 1..=20 {
        attacker.send(&flow_request(id, "endless", Flags::default())).await;
        let credit = frame(Header { id, ..Header::new(Kind::StreamCredit) }, &[0xff; 4]);
        attacker.try_send(&credit.repeat(10)).await;
    }
    // Until the sockets' buffers are full and the rest is congested.
    until("it is congested", || max.load(Ordering::SeqCst) > 64 << 10).await;
    tokio::time::sleep(SECOND / 2).await;
    let most = max.load(Ordering::SeqCst);
    assert!(most < 1 << 20, "{most} bytes waited to be written");
    drop(attacker);
    until("the sources are dropped", || Arc::strong_count(&source.open) == 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_streams_do_not_get_around_the_limit_of_work() {
    const IN_WORK: usize = 4;
    let (scene, source) = flows(|server| server.max_concurrent_requests(IN_WORK)).await;
    let mut attacker = scene.attacker().await;
    let requests: Vec<u8> =
        (1..=100).flat_map(|id| flow_request(id, "take_late", Flags::STREAM)).collect();
    attacker.send(&requests).await;
    until("as much is in work as may be", || source.taking.load(Ordering::SeqCst) >= IN_WORK).await;
    // Let go at once: those over the limit are refused now or were never begun.
    let taking = source.taking.load(Ordering::SeqCst);
    assert!(taking <= 2 * IN_WORK, "{taking} requests in work");
    drop(attacker);
    until("all connections of the attacker are freed", || scene.server.channels().len() == 1).await;
    let taking = source.taking.load(Ordering::SeqCst);
    assert!(taking <= 2 * IN_WORK, "{taking} requests in work");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_floods_a_stream_ends_it_and_the_client_keeps_only_what_it_granted() {
    const ITEM: usize = 10_000;
    let server = RawServer::start(|mut peer| async move {
        let id = peer.requested().await.unwrap().header.id;
        let header = Header { flags: Flags::STREAM, ..Header::response(id, Status::Ok) };
        peer.try_send(&frame(header, &[0xc0])).await;
        for _ in 0..2_000 {
            peer.try_send(&item(id, ITEM)).await;
        }
        let id = peer.requested().await.unwrap().header.id;
        peer.try_send(&wire::ok(id, &3)).await;
        peer.drain().await;
    })
    .await;
    let client = Client::builder().connect(server.uri()).await.unwrap();
    let mut items = soon("the call", FlowsClient::new(client.clone()).endless()).await.unwrap();
    // All items have been looked at once this is answered.
    assert_eq!(soon("the next call", ProbeClient::new(client).add(1, 2)).await, Ok(3));
    let mut count = 0;
    let error = loop {
        match soon("an item", items.next()).await.expect("an error and not the end") {
            Ok(item) => assert_eq!(item.len(), ITEM),
            Err(error) => break error,
        }
        count += 1;
    };
    assert!(error.is_protocol() && error.message().contains("granted"), "{error:?}");
    assert!(count > 10 && count <= WINDOW / ITEM + 1, "{count} items of {ITEM} bytes were kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_is_an_error_and_not_its_end() {
    let server = RawServer::start(|mut peer| async move {
        let id = peer.requested().await.unwrap().header.id;
        let header = Header { flags: Flags::STREAM, ..Header::response(id, Status::Ok) };
        let items = item(id, 10).repeat(3);
        peer.send(&[frame(header, &[0xc0]), items, item(id, 1_000)[..500].to_vec()].concat()).await;
    })
    .await;
    let flows = FlowsClient::connect(server.uri()).await.unwrap();
    let mut items = soon("the call", flows.endless()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(soon("an item", items.next()).await.unwrap().unwrap().len(), 10);
    }
    let error = soon("the end", items.next()).await.expect("no end").unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(soon("the end", items.next()).await.is_none());
}
