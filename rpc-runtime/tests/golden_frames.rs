//! The frames of `docs/frames` and the tables and example of `docs/protocol.md` against the code.
//!
//! A golden frame is a text: `#` begins a comment, `@ name: value` says what the frame means, all
//! else is its bytes in hexadecimal. A change of a byte here is a change of the protocol.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rpc_runtime::Heartbeat;
use rpc_runtime::handlers::{HeartbeatHandler, RefuseUnknown};
use rpc_runtime::pipeline::{Change, EmbeddedChannel};
use rpc_runtime::protocol::{
    Codec, Decoded, Flags, Frame, FrameCodec, HEADER_LEN, Header, Hello, HelloService, Kind, MAGIC,
    Output, VERSION,
};
use rpc_runtime::{MethodDescriptor, RpcError, Server, ServiceKey, Status, Streaming, rpc_service};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

const LIMIT: usize = 8 << 20;

// ---- the files ---------------------------------------------------------------------------------

struct Golden {
    name: String,
    fields: BTreeMap<String, String>,
    bytes: Vec<u8>,
}

impl Golden {
    fn parse(name: &str, text: &str) -> Self {
        let (mut fields, mut bytes) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            if let Some(field) = line.strip_prefix("@ ") {
                let (key, value) = field.split_once(": ").expect("`@ name: value`");
                fields.insert(key.to_owned(), value.to_owned());
                continue;
            }
            for byte in line.split('#').next().unwrap().split_whitespace() {
                bytes.push(u8::from_str_radix(byte, 16).unwrap_or_else(|_| {
                    panic!("{name}: `{byte}` in `{line}` is no byte");
                }));
            }
        }
        Self { name: name.to_owned(), fields, bytes }
    }

    fn read(name: &str) -> Self {
        let path = docs().join("frames").join(format!("{name}.hex"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(name, &text)
    }

    /// All of `docs/frames`, and the examples in the text of the protocol.
    fn all() -> Vec<Self> {
        let mut names: Vec<String> = std::fs::read_dir(docs().join("frames"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter_map(|file| file.strip_suffix(".hex").map(str::to_owned))
            .collect();
        names.sort();
        let mut all: Vec<Self> = names.iter().map(|name| Self::read(name)).collect();
        all.extend(examples());
        all
    }

    fn field(&self, key: &str) -> &str {
        self.fields.get(key).unwrap_or_else(|| panic!("{}: `@ {key}: …` is missing", self.name))
    }

    fn number(&self, key: &str) -> u64 {
        let text = self.field(key);
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    }

    /// The header as the fields state it.
    fn header(&self) -> Header {
        let flags = match self.field("flags") {
            "none" => Flags::default(),
            names => names.split(", ").fold(Flags::default(), |all, name| all.with(flag(name))),
        };
        Header {
            kind: kind(self.field("kind")),
            flags,
            status: u16::try_from(self.number("status")).unwrap(),
            id: self.number("id"),
            method: self.number("method"),
            deadline_ms: u32::try_from(self.number("deadline_ms")).unwrap(),
            length: u32::try_from(self.bytes.len() - HEADER_LEN).unwrap(),
        }
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..]
    }

    /// The payload behind the metadata section, if there is one.
    fn value(&self) -> &[u8] {
        if !self.header().flags.contains(Flags::METADATA) {
            return self.payload();
        }
        let (length, rest) = self.payload().split_first_chunk::<4>().unwrap();
        &rest[u32::from_be_bytes(*length) as usize..]
    }

    fn frame(&self) -> Frame<'_> {
        Frame::new(self.header(), self.payload())
    }
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn protocol() -> String {
    std::fs::read_to_string(docs().join("protocol.md")).unwrap()
}

/// The blocks of the protocol's text that are marked as `hex`.
fn examples() -> Vec<Golden> {
    let text = protocol();
    let blocks = text.split("```hex\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .enumerate()
        .map(|(at, block)| Golden::parse(&format!("example {} of protocol.md", at + 1), block))
        .collect()
}

/// The rows under `heading` as cells, without the two rows of the table's own heading.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = protocol();
    let section = text
        .split(&format!("\n{heading}\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("protocol.md has no `{heading}`"));
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|row| {
            row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}

// ---- names -------------------------------------------------------------------------------------

/// `stream data` for `StreamData`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for char in name.chars() {
        if char.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(char.to_lowercase());
    }
    words
}

fn kind_name(kind: Kind) -> String {
    match kind {
        Kind::Unknown(number) => format!("unknown({number})"),
        Kind::GoAway => "goaway".to_owned(),
        known => words(&format!("{known:?}")),
    }
}

fn kind(name: &str) -> Kind {
    let named = (0..=u8::MAX).map(Kind::from_wire).find(|kind| kind_name(*kind) == name);
    named.unwrap_or_else(|| panic!("`{name}` is no kind"))
}

const FLAGS: [(&str, Flags); 5] = [
    ("metadata", Flags::METADATA),
    ("compact", Flags::COMPACT),
    ("compressed", Flags::COMPRESSED),
    ("unexecuted", Flags::UNEXECUTED),
    ("stream", Flags::STREAM),
];

fn flag(name: &str) -> Flags {
    FLAGS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("flag `{name}`")).1
}

// ---- MessagePack as text -----------------------------------------------------------------------

/// A MessagePack value written as JSON, in the order of the bytes.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsText;
        impl<'de> Visitor<'de> for AsText {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text("null".to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Text, E> {
                Ok(Text(format!("\"{value}\"")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                let mut items = Vec::new();
                while let Some(Text(item)) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Text(format!("[{}]", items.join(", "))))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                let mut text = String::new();
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    let comma = if text.is_empty() { "" } else { ", " };
                    let _ = write!(text, "{comma}{key}: {value}");
                }
                Ok(Text(format!("{{{text}}}")))
            }
        }
        deserializer.deserialize_any(AsText)
    }
}

fn text(messagepack: &[u8]) -> String {
    if messagepack.is_empty() {
        return String::new();
    }
    rmp_serde::from_slice::<Text>(messagepack).unwrap().0
}

// ---- files against the codec -------------------------------------------------------------------

#[test]
fn every_golden_frame_reads_as_its_fields_say() {
    for golden in Golden::all() {
        let mut codec = FrameCodec::new(LIMIT);
        let Ok(Decoded::Frame { frame, consumed }) = codec.decode(&golden.bytes) else {
            panic!("{} is no whole frame", golden.name)
        };
        assert_eq!(consumed, golden.bytes.len(), "{}", golden.name);
        assert_eq!(frame.header, golden.header(), "{}", golden.name);
        assert_eq!(frame.body.as_slice(), golden.payload(), "{}", golden.name);

        if let Some(credit) = golden.fields.get("credit") {
            let granted = u32::from_be_bytes(golden.payload().try_into().unwrap());
            assert_eq!(&granted.to_string(), credit, "{}", golden.name);
            continue;
        }
        let stated = golden.fields.get("payload").map_or("", String::as_str);
        assert_eq!(text(golden.value()), stated, "{}", golden.name);
        let metadata = golden.payload().len() - golden.value().len();
        match golden.fields.get("metadata") {
            Some(stated) => assert_eq!(&text(&golden.payload()[4..metadata]), stated),
            None => assert_eq!(metadata, 0, "{}", golden.name),
        }
    }
}

#[test]
fn every_golden_frame_is_what_the_codec_writes() {
    for golden in Golden::all() {
        let mut out = Output::default();
        FrameCodec::new(LIMIT).encode(&golden.frame(), &mut out).unwrap();
        assert_eq!(out.to_vec(), golden.bytes, "{}", golden.name);

        let mut channel = EmbeddedChannel::new(Instant::now());
        channel.write_outbound(golden.frame()).unwrap();
        assert_eq!(channel.take_output(), golden.bytes, "{}", golden.name);
        channel.write_inbound_bytes(&golden.bytes);
        assert_eq!(channel.read_inbound(), Some(golden.frame()), "{}", golden.name);
    }
}

#[test]
fn golden_payloads_are_what_the_types_of_the_runtime_encode_to() {
    #[derive(Serialize)]
    struct Point {
        x: i32,
        y: i32,
    }
    #[derive(Serialize)]
    enum BankError {
        Insufficient(u32, i64),
    }
    fn named(value: &impl Serialize) -> Vec<u8> {
        rmp_serde::to_vec_named(value).unwrap()
    }
    let mut consumer = Hello::default();
    consumer.max_payload = LIMIT as u32;
    consumer.heartbeat_ms = 60_000;
    consumer.stream_window = 16 << 20;
    let mut provider = consumer.clone();
    let mut service = HelloService::default();
    service.name = "HelloService".to_owned();
    service.methods = vec![(0xd4d6_3530_0e53_7aab, 0x2479_9ff4_40c1_70b2)];
    service.version = "1.0.0".to_owned();
    provider.services.push(service);
    provider.max_requests = 1_024;
    let error = |status, message| named(&RpcError::new(status, message));
    let caused = RpcError::internal("the value cannot be encoded as MessagePack")
        .with_source(&std::io::Error::other("no such key"));
    let unknown_kind = "frames of kind 99 are not understood here";
    let other_version = "protocol version 2 is not spoken here; this end speaks version 1";
    let mut reads_metadata = consumer.clone();
    reads_metadata.features = vec!["reply_metadata".to_owned()];
    for (name, payload) in [
        ("hello-consumer", named(&consumer)),
        ("hello-reply-metadata", named(&reads_metadata)),
        ("hello-provider", named(&provider)),
        ("request-named", named(&("world",))),
        ("request-struct-named", named(&(7, Point { x: 1, y: -2 }))),
        ("request-struct-compact", rmp_serde::to_vec(&(7, Point { x: 1, y: -2 })).unwrap()),
        ("request-metadata-deadline", named(&("world",))),
        ("response-ok", named(&"Hello, world")),
        ("response-metadata", named(&"Hello, world")),
        ("response-error-metadata", error(Status::Overloaded, "too many requests of this tenant")),
        ("response-application-error", named(&BankError::Insufficient(7, -5))),
        (
            "response-not-found-unexecuted",
            error(Status::NotFound, "the peer provides no such method"),
        ),
        (
            "response-internal",
            error(Status::Internal, "the provider's method panicked: on purpose"),
        ),
        ("response-unauthenticated", error(Status::Unauthenticated, "a bearer token is needed")),
        (
            "response-permission-denied",
            error(Status::PermissionDenied, "the role `admin` is needed"),
        ),
        ("response-error-with-source", named(&caused)),
        ("request-stream", named(&((),))),
        ("response-stream", named(&())),
        ("stream-data", named(&1)),
        ("stream-end-error", error(Status::Internal, "the stream's source panicked")),
        ("oneway", named(&("opened",))),
        ("error", error(Status::Protocol, unknown_kind)),
        ("error-connection", error(Status::Protocol, other_version)),
    ] {
        assert_eq!(text(Golden::read(name).value()), text(&payload), "{name}");
        assert_eq!(Golden::read(name).value(), payload, "{name}");
    }
}

#[test]
fn golden_requests_carry_the_ids_of_their_methods() {
    for (name, service, method) in [
        ("request-named", "HelloService", "hello"),
        ("request-struct-named", "AccountService", "move_to"),
        ("request-no-arguments", "HelloService", "ping"),
        ("request-stream", "Numbers", "sum"),
        ("oneway", "AccountService", "audit"),
    ] {
        let key = ServiceKey::new(service, "1.0.0", "");
        let id = MethodDescriptor::new(key, method, &[], "()").id();
        assert_eq!(Golden::read(name).header().method, id, "{name}");
    }
}

#[test]
fn the_method_ids_that_the_protocol_lists_are_the_runtimes() {
    let rows = table("### Examples of method ids");
    assert!(!rows.is_empty());
    for row in rows {
        let [group, service, version, method, id] = &row[..] else { panic!("{row:?}") };
        // Descriptors are made at compile time from constants; here they are made of a file.
        let leak = |text: &String| &*text.clone().leak();
        let key = ServiceKey::new(leak(service), leak(version), leak(group));
        let descriptor = MethodDescriptor::new(key, leak(method), &[], "()");
        assert_eq!(&format!("{:016x}", descriptor.id()), id, "{row:?}");
    }
}

// ---- handlers and a server ---------------------------------------------------------------------

fn answering(golden: &str) -> Vec<u8> {
    let mut channel = EmbeddedChannel::new(Instant::now());
    channel.change(Change::add_last(None, RefuseUnknown)).unwrap();
    let heartbeat = HeartbeatHandler::server(Heartbeat::default());
    channel.change(Change::add_last(None, heartbeat)).unwrap();
    channel.write_inbound_bytes(&Golden::read(golden).bytes);
    assert!(channel.pipeline().closing().is_none(), "{golden} closes the connection");
    channel.take_output()
}

#[test]
fn a_golden_ping_and_an_unknown_kind_are_answered_with_golden_frames() {
    assert_eq!(answering("ping"), Golden::read("pong").bytes);
    assert_eq!(answering("unknown-kind"), Golden::read("error").bytes);
    assert_eq!(answering("goaway"), b"");
}

#[test]
fn another_version_is_answered_with_the_golden_error_before_the_connection_ends() {
    let mut channel = EmbeddedChannel::new(Instant::now());
    channel.change(Change::add_last(None, RefuseUnknown)).unwrap();
    let mut frame = Golden::read("ping").bytes;
    frame[2] = VERSION + 1;
    channel.write_inbound_bytes(&frame);
    assert_eq!(channel.take_output(), Golden::read("error-connection").bytes);
    assert!(channel.pipeline().closing().is_some());
}

#[rpc_service(name = "HelloService")]
trait Greeter {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
}

struct Greeting;

impl Greeter for Greeting {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
        Ok(format!("Hello, {name}"))
    }
}

#[rpc_service]
trait Numbers {
    async fn sum(&self, numbers: Streaming<u32>) -> rpc_runtime::Result<u32>;
    async fn up_to(&self, n: u32) -> rpc_runtime::Result<Streaming<u32>>;
}

struct Counting;

impl Numbers for Counting {
    async fn sum(&self, mut numbers: Streaming<u32>) -> rpc_runtime::Result<u32> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }

    async fn up_to(&self, n: u32) -> rpc_runtime::Result<Streaming<u32>> {
        Ok(Streaming::from_items(1..=n))
    }
}

/// A server, spoken to in bytes.
struct Spoken(TcpStream);

impl Spoken {
    fn to(server: &Server) -> Self {
        let address = server.local_uri().strip_prefix("tcp://").unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(socket)
    }

    fn say(&mut self, golden: &str) {
        self.0.write_all(&Golden::read(golden).bytes).unwrap();
    }

    fn hear(&mut self, golden: &str) {
        assert_eq!(self.frame(), Golden::read(golden).bytes, "{golden}");
    }

    /// The bytes of the next frame.
    fn frame(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        self.0.read_exact(&mut bytes).unwrap();
        let length = Header::decode(&bytes).unwrap().unwrap().length as usize;
        bytes.resize(HEADER_LEN + length, 0);
        self.0.read_exact(&mut bytes[HEADER_LEN..]).unwrap();
        bytes
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_answers_golden_bytes_with_golden_bytes_before_any_hello() {
    let server = Server::builder().provide(GreeterServer::new(Greeting));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut spoken = Spoken::to(&server);
    let talk = tokio::task::spawn_blocking(move || {
        spoken.hear("hello-provider");
        for (said, answer) in [
            ("request-named", "response-ok"),
            ("request-struct-named", "response-not-found-unexecuted"),
            ("ping", "pong"),
            ("unknown-kind", "error"),
            ("request-named", "response-ok"),
        ] {
            spoken.say(said);
            spoken.hear(answer);
        }
    });
    talk.await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn golden_items_follow_golden_requests_and_answers() {
    let server = Server::builder().provide(NumbersServer::new(Counting));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut spoken = Spoken::to(&server);
    let talk = tokio::task::spawn_blocking(move || {
        spoken.frame();
        for said in ["request-stream", "stream-data", "stream-end"] {
            spoken.say(said);
        }
        assert_eq!(&spoken.frame()[HEADER_LEN..], [1], "the sum of the one item that was sent");

        let header = Golden::read("request-stream").header();
        let method = NUMBERS_DESCRIPTOR.methods()[1].id();
        let header = Header { method, flags: Flags::default(), ..header };
        let mut request = Output::default();
        let body = rmp_serde::to_vec(&(1,)).unwrap();
        FrameCodec::new(LIMIT).encode(&Frame::new(header, &body), &mut request).unwrap();
        spoken.0.write_all(&request.to_vec()).unwrap();
        for answer in ["response-stream", "stream-data", "stream-end"] {
            spoken.hear(answer);
        }
    });
    talk.await.unwrap();
    server.shutdown().await.unwrap();
}

/// Plays a provider: greets, and answers each request with the next of `answers`.
fn play_provider(listener: &TcpListener, answers: Vec<Vec<u8>>) {
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut spoken = Spoken(socket);
    spoken.say("hello-provider");
    spoken.hear("hello-reply-metadata");
    for mut answer in answers {
        let request = spoken.frame();
        assert_eq!(request[3], Kind::Request.to_wire());
        answer[8..16].copy_from_slice(&request[8..16]);
        spoken.0.write_all(&answer).unwrap();
    }
    // Until the client has gone.
    let _ = spoken.0.read(&mut [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_reads_golden_metadata_and_damaged_metadata_fails_one_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let answer = |name| Golden::read(name).bytes;
    let damaged = |at: usize, byte| {
        let mut answer = answer("response-metadata");
        answer[HEADER_LEN + at] = byte;
        answer
    };
    // The length of the section over the limit, over that of the payload, and no map in it.
    let (over, beyond, no_map) = (damaged(2, 0xff), damaged(3, 0xff), damaged(4, 0xc1));
    let answers = vec![
        answer("response-metadata"),
        answer("response-error-metadata"),
        over,
        beyond,
        no_map,
        answer("response-ok"),
    ];
    let provider = tokio::task::spawn_blocking(move || play_provider(&listener, answers));
    let client = GreeterClient::connect(&uri).await.unwrap();
    let hello = || client.hello("world".to_owned());
    assert_eq!(hello().await.unwrap(), "Hello, world");
    let error = hello().await.unwrap_err();
    assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error}");
    assert_eq!(error.metadata("retry-after-ms"), Some("250"));
    assert!(hello().await.unwrap_err().is_too_large());
    for _ in 0..2 {
        let error = hello().await.unwrap_err();
        assert!(error.is_decode() && error.message().contains("metadata"), "{error}");
    }
    assert_eq!(hello().await.unwrap(), "Hello, world", "the connection goes on");
    drop(client);
    provider.await.unwrap();
}

// ---- tables of the protocol --------------------------------------------------------------------

#[test]
fn the_table_of_the_header_says_where_the_fields_are() {
    let mut next = 0;
    for row in table("## Header") {
        let (offset, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(offset, next, "{row:?}");
        next += size;
        let header = Header {
            kind: Kind::Unknown(0xff),
            flags: Flags::from_bits(u16::MAX),
            status: u16::MAX,
            id: u64::MAX,
            method: u64::MAX,
            deadline_ms: u32::MAX,
            length: u32::MAX,
        };
        let zero = Header::new(Kind::Unknown(0));
        let changed = match row[2].as_str() {
            "magic" => {
                assert_eq!(zero.encode()[offset..next], MAGIC);
                continue;
            }
            "version" => {
                assert_eq!(zero.encode()[offset..next], [VERSION]);
                continue;
            }
            "kind" => Header { kind: header.kind, ..zero },
            "flags" => Header { flags: header.flags, ..zero },
            "status" => Header { status: header.status, ..zero },
            "id" => Header { id: header.id, ..zero },
            "method" => Header { method: header.method, ..zero },
            "deadline" => Header { deadline_ms: header.deadline_ms, ..zero },
            "length" => Header { length: header.length, ..zero },
            other => panic!("there is no field `{other}`"),
        };
        let mut expected = zero.encode();
        expected[offset..next].fill(0xff);
        assert_eq!(changed.encode(), expected, "{row:?}");
    }
    assert_eq!(next, HEADER_LEN);
}

#[test]
fn the_table_of_kinds_is_the_codes() {
    let listed: BTreeMap<u8, String> =
        table("## Kinds").iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect();
    for number in 0..=u8::MAX {
        let known = match Kind::from_wire(number) {
            Kind::Unknown(_) => None,
            kind => Some(kind_name(kind)),
        };
        assert_eq!(listed.get(&number), known.as_ref(), "kind {number}");
        assert_eq!(Kind::from_wire(number).to_wire(), number);
    }
}

#[test]
fn the_table_of_flags_is_the_codes() {
    let rows = table("## Flags");
    assert_eq!(rows.len(), FLAGS.len());
    for row in rows {
        let bit: u32 = row[0].parse().unwrap();
        let flags = Flags::from_bits(1 << bit);
        assert_eq!(flags, flag(&row[1]), "{row:?}");
        assert_eq!(flags.are_understood(), !row[2].contains("reserved"), "{row:?}");
    }
    for bit in FLAGS.len()..16 {
        assert!(!Flags::from_bits(1 << bit).are_understood(), "bit {bit} is not in the table");
    }
}

#[test]
fn the_table_of_statuses_is_the_codes() {
    let listed: BTreeMap<u16, String> =
        table("## Status").iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect();
    for number in 0..=u16::MAX {
        let status = Status::from_wire(number);
        let known = (status.to_wire() == number).then(|| status.name().to_owned());
        assert_eq!(listed.get(&number), known.as_ref(), "status {number}");
    }
}
